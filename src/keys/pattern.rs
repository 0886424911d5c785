//! Names of models with wildcards: `*` stands for any characters, `?` for one.

use std::str::Chars;

/// Whether `pattern` matches all of `name`. The time is at most proportional to the product of the lengths.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    // What follows the last star, and the rest of the name with which that was last tried.
    let mut star: Option<(Chars, Chars)> = None;
    loop {
        let rest = name.clone();
        match (pattern.next(), name.next()) {
            (Some('*'), _) => {
                star = Some((pattern.clone(), rest.clone()));
                name = rest;
            }
            (None, None) => return true,
            (Some(_), None) => return false,
            (Some(letter), Some(found)) if letter == '?' || letter == found => {}
            (_, Some(_)) => {
                let Some((after, tried)) = &mut star else { return false };
                tried.next();
                (pattern, name) = (after.clone(), tried.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_others() {
        for (pattern, name) in [
            ("*", "x"),
            ("*", ""),
            ("qwen*", "qwen3"),
            ("q?en3", "qwen3"),
            ("*/qwen*", "a/b/qwen3"),
            ("a*b*c", "aXbbc"),
            ("a**", "a"),
            ("*?", "é"),
            ("通?*千问", "通义的千问"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("", "x"),
            ("qwen", "qwen3"),
            ("qwen3", "qwen"),
            ("?", ""),
            ("a*b", "abc"),
            ("Q*", "qwen"),
            ("??", "é"),
            ("*?x", "x"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        assert!(!matches(&"*a".repeat(200), &"a".repeat(150)));
    }
}
