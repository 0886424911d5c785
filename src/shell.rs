//! Variables as text for each shell.
//!
//! Hazard: a shell splits, globs and expands what it reads, and each shell in its own way; a value that slips out of its
//! word runs as a command. Rule: every value passes one of the quoting functions here, and what a format cannot hold
//! the same way for all its readers is an error, never a guess.

use std::borrow::Cow;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::error::{Failed, Failure, json_for_terminal};
use crate::secret::Secret;

/// One environment variable: its value, or `None` if it is to be unset.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub(crate) name: Cow<'static, str>,
    pub(crate) value: Option<Secret>,
}

/// The variables that an OpenAI client reads, always set together: a key with the base URL of another host would be
/// sent there, headers of another service would replace the key or accompany it, and with an organization or project of
/// another account the API rejects the request.
pub(crate) fn openai(key: &Secret, base_url: &str, model: Option<&str>) -> [Variable; 8] {
    let text = |text: &str| Some(Secret::new(text.to_owned()));
    [
        Variable { name: "OPENAI_API_KEY".into(), value: Some(key.clone()) },
        Variable { name: "OPENAI_BASE_URL".into(), value: text(base_url) },
        // aider and older clients
        Variable { name: "OPENAI_API_BASE".into(), value: text(base_url) },
        Variable { name: "OPENAI_MODEL".into(), value: model.and_then(text) },
        Variable { name: "OPENAI_ORG_ID".into(), value: None },
        Variable { name: "OPENAI_PROJECT".into(), value: None },
        Variable { name: "OPENAI_PROJECT_ID".into(), value: None },
        Variable { name: "OPENAI_CUSTOM_HEADERS".into(), value: None },
    ]
}

/// The same variables, each of them to be removed.
pub(crate) fn openai_removed() -> [Variable; 8] {
    openai(&Secret::new(String::new()), "", None).map(|variable| Variable { value: None, ..variable })
}

/// bash, dash, zsh and similar shells: `eval $(qwenauth env)`, unquoted or quoted.
///
/// Unquoted, the text is split at `IFS`, globbed, and joined by `eval` with single spaces. It survives because every
/// ASCII byte that a shell could act on has its own backslash: a run of spaces has a backslash between any two of them,
/// so that splitting and joining restore the run, and an escaped `*`, `?` or `[` is not a pattern. Single quotes would
/// survive neither. (ksh and mksh glob an escaped pattern anyway where a file name matches it: quote it there.)
///
/// Other bytes are in single quotes. In a GBK, GB18030, Big5 or Shift-JIS locale the last of them may begin a character
/// that a backslash would complete, and the byte after the backslash would be active. No such character contains `'`.
pub(crate) fn sh(group: &[Variable]) -> Result<Secret> {
    let export = |name: &str, value: &str| Ok(format!("export {name}={};\n", sh_word(value)));
    lines(group, export, |name| format!("unset {name};\n"))
}

/// The statement that makes `eval` fail with `code` where `env` could not print variables.
pub(crate) fn sh_failure(code: u8) -> String {
    format!("(exit {code});\n")
}

fn sh_word(value: &str) -> String {
    let mut word = String::with_capacity(value.len() * 2);
    let mut is_quoted = false;
    for character in value.chars() {
        if is_quoted == character.is_ascii() {
            word.push('\'');
            is_quoted = !is_quoted;
        }
        if character.is_ascii() && !is_plain(character) {
            word.push('\\');
        }
        word.push(character);
    }
    if is_quoted {
        word.push('\'');
    }
    word
}

/// ASCII that has no meaning for any shell or reader of `.env` files, wherever it is in a value.
fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || "_./:@%+,-".contains(character)
}

/// fish: `qwenauth env --format fish | source`.
///
/// A universal variable is the user's own and is kept; it would show through once the global one is erased, so an empty
/// global one covers it. `or true` because erasing an unset variable counts as a failure in fish.
pub(crate) fn fish(group: &[Variable]) -> Result<Secret> {
    let set = |name: &str, value: &str| Ok(format!("set -gx {name} {};\n", fish_word(value)));
    lines(group, set, |name| format!("set -eg {name}; set -qU {name}; and set -gx {name}; or true;\n"))
}

/// ASCII in single quotes, and the bytes of everything else by their numbers: fish decodes what it reads by the locale's
/// charset, in which bytes of UTF-8 can hide the quote that follows them.
fn fish_word(value: &str) -> String {
    let mut word = String::from("'");
    for character in value.chars() {
        match character {
            '\\' | '\'' => word.extend(['\\', character]),
            character if character.is_ascii() => word.push(character),
            character => {
                word.push('\'');
                word.extend(character.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("\\X{byte:02x}")));
                word.push('\'');
            }
        }
    }
    word + "'"
}

/// The statement that makes `source` fail where `env` could not print variables.
pub(crate) fn fish_failure() -> String {
    "false;\n".to_owned()
}

/// `PowerShell`: `qwenauth env --format powershell | Out-String | Invoke-Expression`.
///
/// What is not ASCII is named by its number: Windows `PowerShell` reads what a program prints in the console's code page,
/// and in that of Chinese two bytes of UTF-8 may be one of the quotation marks that end a string as `'` does.
pub(crate) fn powershell(group: &[Variable]) -> Result<Secret> {
    let set = |name: &str, value: &str| {
        let mut text = String::with_capacity(value.len());
        for character in value.chars() {
            if character == '\'' {
                text += "''";
            } else if character.is_ascii() {
                text.push(character);
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    text += &format!("' + [char]0x{unit:04x} + '");
                }
            }
        }
        Ok(format!("$env:{name} = '{text}'\n"))
    };
    lines(group, set, |name| format!("$env:{name} = $null\n"))
}

/// nushell: `qwenauth env --format nushell | from json | load-env`.
///
/// nushell reads a script before it runs it, so statements could only be loaded from a file. A record can be loaded,
/// and a variable that is `null` does not reach the programs that nushell starts.
pub(crate) fn nushell(group: &[Variable]) -> Result<Secret> {
    json(group)
}

/// elvish: `eval (qwenauth env --format elvish | slurp)`.
pub(crate) fn elvish(group: &[Variable]) -> Result<Secret> {
    let set = |name: &str, value: &str| Ok(format!("set-env {name} '{}'\n", value.replace('\'', "''")));
    lines(group, set, |name| format!("unset-env {name}\n"))
}

/// cmd: `for /f "delims=" %i in ('qwenauth env --format cmd') do @%i` (`%%i` in a batch file).
///
/// Inside `set "…"` cmd keeps `^ & | < > ( )` and spaces unchanged. `%` and `!` mean something else in a `for` loop
/// than in a batch file or under delayed expansion, and `"` ends the quotes in one of them only: these are rejected.
pub(crate) fn cmd(group: &[Variable]) -> Result<Secret> {
    let set = |name: &str, value: &str| {
        if value.contains(['"', '%', '!']) {
            return cannot_hold(name, "`\"`, `%` or `!`", "cmd");
        }
        Ok(format!("set \"{name}={value}\"\n"))
    };
    lines(group, set, |name| format!("set \"{name}=\"\n"))
}

/// `.env` files. Such a file cannot unset a variable; those are left out.
///
/// Without quotes where every reader agrees (`docker --env-file` keeps quotes as part of the value), otherwise in
/// single quotes, or in double quotes if the value contains a single quote. Readers differ over `\` (an escape or not,
/// measured on npm dotenv and python-dotenv), over `$` (dotenv-expand replaces it in any quotes) and over both quotes
/// in one value: these are rejected.
pub(crate) fn dotenv(group: &[Variable]) -> Result<Secret> {
    let set = |name: &str, value: &str| {
        if value.contains(['\\', '$']) || (value.contains('\'') && value.contains('"')) {
            return cannot_hold(name, "`\\`, `$` or both kinds of quotes", "dotenv");
        }
        let quote = match value {
            _ if value.chars().all(is_plain) => "",
            _ if value.contains('\'') => "\"",
            _ => "'",
        };
        Ok(format!("{name}={quote}{value}{quote}\n"))
    };
    lines(group, set, |_| String::new())
}

/// One object: name → value, or `null` if the variable is to be unset.
pub(crate) fn json(group: &[Variable]) -> Result<Secret> {
    let mut object = Map::new();
    for Variable { name, value } in group {
        let value = match value {
            Some(value) => Value::from(checked(name, value)?),
            None => Value::Null,
        };
        object.insert(name.clone().into_owned(), value);
    }
    Ok(Secret::new(json_for_terminal(&format!("{}\n", Value::Object(object)))))
}

/// Lines for the file `$GITHUB_ENV`. It cannot remove a variable; an empty value is the nearest to that.
pub(crate) fn github(group: &[Variable]) -> Result<Secret> {
    let set = |name: &str, value: &str| Ok(format!("{name}={value}\n"));
    lines(group, set, |name| format!("{name}=\n"))
}

/// The workflow command that makes GitHub Actions replace `key` by `***` in every later log line.
/// The runner reads it from stderr too and decodes `%25`.
pub(crate) fn github_mask(key: &Secret) -> Secret {
    Secret::new(format!("::add-mask::{}\n", key.expose().replace('%', "%25")))
}

fn lines(
    group: &[Variable],
    set: impl Fn(&str, &str) -> Result<String>,
    unset: impl Fn(&str) -> String,
) -> Result<Secret> {
    let mut text = String::new();
    for Variable { name, value } in group {
        match value {
            Some(value) => text.push_str(&set(name, checked(name, value)?)?),
            None => text.push_str(&unset(name)),
        }
    }
    Ok(Secret::new(text))
}

/// The value, if it has no control character: a newline ends a statement in most formats, and terminals obey the rest.
fn checked<'a>(name: &str, value: &'a Secret) -> Result<&'a str> {
    let value = value.expose();
    if value.contains(char::is_control) {
        return Failed::new(Failure::Other, format!("the value of {name} contains a control character")).err();
    }
    Ok(value)
}

fn cannot_hold<T>(name: &str, characters: &str, format: &str) -> Result<T> {
    Failed::new(
        Failure::Other,
        format!("the value of {name} contains {characters}, which `{format}` cannot represent safely"),
    )
    .hint("`qwenauth exec -- CMD` accepts any value")
    .err()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn openai_variables(value: &str) -> [Variable; 8] {
        openai(&Secret::new(value.to_owned()), "https://portal.qwen.ai/v1", Some("coder-model"))
    }

    fn first_line(text: Result<Secret>) -> String {
        text.unwrap().expose().lines().next().unwrap().to_owned()
    }

    type Format = fn(&[Variable]) -> Result<Secret>;
    const FORMATS: [Format; 9] = [sh, fish, powershell, nushell, elvish, cmd, dotenv, json, github];

    #[test]
    fn sh_prints_the_group_and_removes_the_rest() {
        assert_eq!(
            sh(&openai(&Secret::new("sk a".into()), "https://portal.qwen.ai/v1", None)).unwrap().expose(),
            "export OPENAI_API_KEY=sk\\ a;\nexport OPENAI_BASE_URL=https://portal.qwen.ai/v1;\n\
             export OPENAI_API_BASE=https://portal.qwen.ai/v1;\nunset OPENAI_MODEL;\nunset OPENAI_ORG_ID;\nunset OPENAI_PROJECT;\n\
             unset OPENAI_PROJECT_ID;\nunset OPENAI_CUSTOM_HEADERS;\n"
        );
    }

    #[test]
    fn removing_names_every_variable_and_no_value() {
        assert_eq!(
            elvish(&openai_removed()).unwrap().expose(),
            "unset-env OPENAI_API_KEY\nunset-env OPENAI_BASE_URL\nunset-env OPENAI_API_BASE\nunset-env OPENAI_MODEL\n\
             unset-env OPENAI_ORG_ID\nunset-env OPENAI_PROJECT\nunset-env OPENAI_PROJECT_ID\nunset-env OPENAI_CUSTOM_HEADERS\n"
        );
    }

    #[test]
    fn each_format_quotes_in_its_own_way() {
        let value = r"a 'b' \ ü’";
        assert_eq!(first_line(sh(&openai_variables(value))), r"export OPENAI_API_KEY=a\ \'b\'\ \\\ 'ü’';");
        assert_eq!(
            first_line(fish(&openai_variables(value))),
            r"set -gx OPENAI_API_KEY 'a \'b\' \\ '\Xc3\Xbc''\Xe2\X80\X99'';"
        );
        assert_eq!(
            first_line(powershell(&openai_variables(value))),
            r"$env:OPENAI_API_KEY = 'a ''b'' \ ' + [char]0x00fc + '' + [char]0x2019 + ''"
        );
        assert_eq!(first_line(elvish(&openai_variables(value))), r"set-env OPENAI_API_KEY 'a ''b'' \ ü’'");
        assert_eq!(first_line(cmd(&openai_variables(value))), r#"set "OPENAI_API_KEY=a 'b' \ ü’""#);
        assert_eq!(first_line(github(&openai_variables(value))), r"OPENAI_API_KEY=a 'b' \ ü’");
    }

    #[test]
    fn nushell_and_json_are_an_object_with_null_for_what_goes() {
        let expected = r#"{"OPENAI_API_KEY":"a\"\\","OPENAI_BASE_URL":"https://portal.qwen.ai/v1","OPENAI_API_BASE":"https://portal.qwen.ai/v1","OPENAI_MODEL":"coder-model","OPENAI_ORG_ID":null,"OPENAI_PROJECT":null,"OPENAI_PROJECT_ID":null,"OPENAI_CUSTOM_HEADERS":null}"#;
        assert_eq!(first_line(json(&openai_variables("a\"\\"))), expected);
        assert_eq!(first_line(nushell(&openai_variables("a\"\\"))), expected);
    }

    #[test]
    fn dotenv_quotes_only_what_needs_it_and_leaves_out_what_goes() {
        assert_eq!(
            dotenv(&openai_variables("sk-1")).unwrap().expose(),
            "OPENAI_API_KEY=sk-1\nOPENAI_BASE_URL=https://portal.qwen.ai/v1\n\
             OPENAI_API_BASE=https://portal.qwen.ai/v1\nOPENAI_MODEL=coder-model\n"
        );
        assert_eq!(first_line(dotenv(&openai_variables("a #b"))), "OPENAI_API_KEY='a #b'");
        assert_eq!(first_line(dotenv(&openai_variables("it's"))), "OPENAI_API_KEY=\"it's\"");
    }

    #[test]
    fn what_a_format_cannot_hold_is_an_error_without_the_value() {
        for (format, value) in [
            (cmd as Format, "hunter2\"&calc"),
            (cmd, "hunter2%PATH%"),
            (cmd, "hunter2!x!"),
            (dotenv, "hunter2\\"),
            (dotenv, "hunter2${HOME}"),
            (dotenv, "hunter2'\""),
        ] {
            let error = format!("{:?}", format(&openai_variables(value)).unwrap_err());
            assert!(error.contains("OPENAI_API_KEY") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_mask_command_is_encoded() {
        assert_eq!(github_mask(&Secret::new("a%0Ab".into())).expose(), "::add-mask::a%250Ab\n");
    }

    #[test]
    fn debug_shows_no_value() {
        assert!(!format!("{:?}", openai_variables("hunter2")).contains("hunter2"));
        assert!(!format!("{:?}", sh(&openai_variables("hunter2"))).contains("hunter2"));
    }

    proptest! {
        #[test]
        fn a_control_character_is_an_error_without_the_value(before in ".*", control in r"\p{Cc}", after in ".*") {
            for format in FORMATS {
                let value = format!("{before}hunter2{control}hunter2{after}");
                let error = format!("{:?}", format(&openai_variables(&value)).unwrap_err());
                prop_assert!(error.contains("OPENAI_API_KEY") && !error.contains("hunter2"), "{}", error);
            }
        }

        #[test]
        fn powershell_is_given_ascii_in_whatever_code_page_it_reads(value in r"\P{Cc}*") {
            let text = powershell(&openai_variables(&value)).unwrap();
            prop_assert!(text.expose().is_ascii());
            let word = text.expose().lines().next().unwrap().strip_prefix("$env:OPENAI_API_KEY = ").unwrap();
            // The expression, read back: strings and numbers of characters in turn.
            let (mut read, mut rest) = (Vec::new(), word);
            loop {
                rest = rest.strip_prefix('\'').unwrap();
                while let Some(end) = rest.find('\'') {
                    read.extend(rest[..end].encode_utf16());
                    rest = &rest[end + 1..];
                    let Some(more) = rest.strip_prefix('\'') else { break };
                    read.push('\''.try_into().map(|byte: u8| u16::from(byte)).unwrap());
                    rest = more;
                }
                let Some(unit) = rest.strip_prefix(" + [char]0x") else { break };
                read.push(u16::from_str_radix(&unit[..4], 16).unwrap());
                rest = unit[4..].strip_prefix(" + ").unwrap();
            }
            prop_assert_eq!(rest, "");
            prop_assert_eq!(String::from_utf16(&read).unwrap(), value);
        }

        #[test]
        fn a_printed_variable_never_spans_lines(value in r"\P{Cc}*") {
            for format in FORMATS {
                let variables = openai_variables(&value);
                if let Ok(text) = format(&variables) {
                    prop_assert!(text.expose().lines().count() <= variables.len());
                }
            }
        }

        #[test]
        fn every_active_byte_of_sh_has_its_own_backslash_and_follows_ascii(value in r"\P{Cc}*") {
            let word = sh_word(&value);
            let (mut read, mut is_quoted, mut before) = (String::new(), false, 'a');
            let mut characters = word.chars();
            while let Some(character) = characters.next() {
                match character {
                    '\'' => is_quoted = !is_quoted,
                    '\\' => {
                        prop_assert!(!is_quoted && before.is_ascii());
                        read.push(characters.next().unwrap());
                    }
                    plain => {
                        prop_assert!(plain.is_ascii() != is_quoted && (is_quoted || is_plain(plain)));
                        read.push(plain);
                    }
                }
                before = character;
            }
            prop_assert!(!is_quoted);
            prop_assert_eq!(read, value);
        }

        #[test]
        fn what_fish_reads_is_ascii(value in r"\P{Cc}*['\\]?\P{Cc}*") {
            prop_assert!(fish_word(&value).is_ascii());
        }
    }
}
