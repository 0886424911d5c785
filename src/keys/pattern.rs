//! Names of models with wildcards: `*` stands for any characters, `?` for one.

/// Whether `pattern` matches all of `name`. The time is at most proportional to the product of the lengths.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut in_name) = (0, 0);
    // The position of the last star, and the position in the name at which the rest after it was last tried.
    let mut star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, in_name));
                at += 1;
            }
            Some(letter) if *letter == '?' || *letter == name[in_name] => {
                at += 1;
                in_name += 1;
            }
            _ => {
                let Some((of_star, tried)) = star else { return false };
                star = Some((of_star, tried + 1));
                (at, in_name) = (of_star + 1, tried + 1);
            }
        }
    }
    pattern[at..].iter().all(|letter| *letter == '*')
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
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("", "x"), ("qwen", "qwen3"), ("qwen3", "qwen"), ("?", ""), ("a*b", "abc"), ("Q*", "qwen")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        assert!(!matches(&"*a".repeat(200), &"a".repeat(150)));
    }
}
