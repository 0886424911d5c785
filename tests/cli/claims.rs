//! Every test that docs/assurance.md and docs/proof.md name is there, under that name.

use std::fs;
use std::path::Path;

/// What stands between backticks and looks like `file::test`.
fn named(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    quoted.filter(|quoted| quoted.contains("::") && quoted.split("::").all(is_name)).collect()
}

#[test]
fn every_test_named_in_the_documents_exists() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for document in ["docs/assurance.md", "docs/proof.md"] {
        let text = fs::read_to_string(home.join(document)).unwrap();
        for name in named(&text) {
            let (module, test) = name.rsplit_once("::").unwrap();
            let file = home.join("tests/cli").join(module.replace("::", "/")).with_extension("rs");
            let source = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{document}: `{name}`: {error}"));
            assert!(source.contains(&format!("#[test]\nfn {test}()")), "{document}: there is no `{name}`");
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}
