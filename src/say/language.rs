//! Messages in the reader's language.
//!
//! Hazard: a message that is translated where it is made reaches scripts, logs, JSON and other processes in that language.
//! Rule: messages are made in English. Where a person's screen shows one, the table of English format strings translates
//! it, and what has no row stays English. The values in a message are carried over unchanged unless they are messages too.

use std::io::Read;
use std::iter;
use std::sync::OnceLock;

use flate2::read::DeflateDecoder;

/// The rows of messages.toml: the English format string as it is in the source, in Chinese, in Russian, each ended by `\0`;
/// compressed (RFC 1951).
const MESSAGES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/messages"));

/// Units of time in English, in Chinese, in Russian.
const UNITS: [(&str, &str, &str); 4] = [("s", "秒", "с"), ("min", "分钟", "мин"), ("h", "小时", "ч"), ("d", "天", "д")];

/// A language that messages are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Language {
    #[default]
    English,
    /// In simplified characters.
    Chinese,
    Russian,
}

impl Language {
    /// The language of a locale such as `zh_CN.UTF-8`, `ru` or `C`. Readers of traditional characters get English.
    pub(crate) fn of_locale(locale: &str) -> Self {
        let tag = locale.split(['.', '@']).next().unwrap_or_default().to_ascii_lowercase();
        let mut parts = tag.split(['_', '-']);
        match parts.next() {
            Some("zh") if !parts.any(|part| ["tw", "hk", "mo", "hant"].contains(&part)) => Self::Chinese,
            Some("ru") => Self::Russian,
            _ => Self::English,
        }
    }

    /// `text`, which was made in English, in this language. Its line ends and the spaces around it stay.
    pub(crate) fn translate(self, text: &str) -> String {
        if self == Self::English {
            return text.to_owned();
        }
        let rows = rows(self);
        let line = |line: &str| {
            let english = line.trim();
            let found = if english.is_empty() { None } else { message(rows, self, english) };
            found.map_or_else(|| line.to_owned(), |found| self.tidy(&line.replacen(english, &found, 1)))
        };
        text.split('\n').map(line).collect::<Vec<_>>().join("\n")
    }

    /// Without the spaces behind full-width punctuation, which has its own.
    fn tidy(self, text: &str) -> String {
        if self != Self::Chinese {
            return text.to_owned();
        }
        let text = ["，", "；", "：", "。", "）"]
            .iter()
            .fold(text.to_owned(), |text, mark| text.replace(&format!("{mark} "), mark));
        text.replace(" （", "（")
    }

    /// A duration as [`in_words`](super::in_words) writes it, `5 h 59 min`, with the units of this language.
    fn duration(self, text: &str) -> Option<String> {
        let mut words = Vec::new();
        let mut parts = text.split(' ');
        while let Some(number) = parts.next() {
            let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let (_, chinese, russian) =
                UNITS.into_iter().find(|(unit, ..)| is_number && parts.clone().next() == Some(*unit))?;
            parts.next();
            words.push(format!("{number} {}", if self == Self::Chinese { chinese } else { russian }));
        }
        Some(words.join(" "))
    }

    /// What joins a message to its cause, and two clauses of one message.
    fn separator(self, english: &'static str) -> &'static str {
        match (self, english) {
            (Self::Chinese, ": ") => "：",
            (Self::Chinese, "; ") => "；",
            _ => english,
        }
    }
}

/// A message with places for its values.
struct Row {
    /// The text between the places, one piece more than there are places.
    english: Vec<String>,
    places: Vec<String>,
    translated: Vec<Piece>,
}

enum Piece {
    Text(String),
    /// The value of the place with this number.
    Value(usize),
}

/// The rows of a language other than English, split once, when its first message is shown.
fn rows(language: Language) -> &'static [Row] {
    static CHINESE: OnceLock<Vec<Row>> = OnceLock::new();
    static RUSSIAN: OnceLock<Vec<Row>> = OnceLock::new();
    let split = |column| move || messages(&unpacked()).map(|row| Row::new(row[0], row[column])).collect();
    match language {
        Language::Chinese => CHINESE.get_or_init(split(1)),
        _ => RUSSIAN.get_or_init(split(2)),
    }
}

fn unpacked() -> String {
    let mut texts = String::new();
    // Without rows, which a damaged program has, everything is English.
    let _ = DeflateDecoder::new(MESSAGES).read_to_string(&mut texts);
    texts
}

/// English, Chinese and Russian of each message.
fn messages(texts: &str) -> impl Iterator<Item = [&str; 3]> {
    let mut texts = texts.split_terminator('\0');
    iter::from_fn(move || Some([texts.next()?, texts.next()?, texts.next()?]))
}

impl Row {
    fn new(english: &str, translated: &str) -> Self {
        let (english, places) = split(english.trim());
        let (texts, named) = split(translated.trim());
        let mut unnamed = (0..places.len()).filter(|&place| places[place].is_empty()).collect::<Vec<_>>().into_iter();
        let mut pieces = Vec::new();
        for (at, text) in texts.into_iter().enumerate() {
            pieces.push(Piece::Text(text));
            let Some(name) = named.get(at) else { break };
            // As in a format string: `{}` is the next one without a name, `{0}` the first, `{name}` the one of that name.
            let place = match name.parse() {
                Ok(number) => Some(number),
                Err(_) if name.is_empty() => unnamed.next(),
                Err(_) => places.iter().position(|place| place == name),
            };
            pieces.extend(place.filter(|place| *place < places.len()).map(Piece::Value));
        }
        Self { english, places, translated: pieces }
    }

    /// How much of a message that fits is this row's own text.
    fn own(&self) -> usize {
        self.english.iter().map(String::len).sum()
    }

    /// The values of `text` in the places, if it is this message.
    fn values<'t>(&self, text: &'t str) -> Option<Vec<&'t str>> {
        let rest = text.strip_prefix(self.english[0].as_str())?;
        let mut values = Vec::with_capacity(self.places.len());
        self.fit(0, rest, &mut values).then_some(values)
    }

    fn fit<'t>(&self, place: usize, rest: &'t str, values: &mut Vec<&'t str>) -> bool {
        if place == self.places.len() {
            return rest.is_empty();
        }
        let next = self.english[place + 1].as_str();
        let is_last = place + 1 == self.places.len();
        let closing = self.closing(place);
        let end = |at: usize| closing.is_none_or(|closing| !rest[..at].contains(closing));
        if is_last && next.is_empty() {
            values.push(rest);
            return true;
        }
        let ends: Vec<usize> = match next {
            "" => vec![0],
            _ if is_last => rest.strip_suffix(next).map(str::len).into_iter().collect(),
            _ => rest.match_indices(next).map(|(at, _)| at).collect(),
        };
        for at in ends.into_iter().filter(|&at| end(at)) {
            values.push(&rest[..at]);
            if self.fit(place + 1, &rest[at + next.len()..], values) {
                return true;
            }
            values.pop();
        }
        false
    }

    /// What a value cannot contain because it ends it.
    fn closing(&self, place: usize) -> Option<char> {
        let is_in_parentheses = self.english[place].ends_with('(') && self.english[place + 1].starts_with(')');
        if self.is_literal(place) { Some('`') } else { is_in_parentheses.then_some(')') }
    }

    /// Whether a place is in backticks: what can be typed, which is the same in every language.
    fn is_literal(&self, place: usize) -> bool {
        let marks: usize = self.english[..=place].iter().map(|text| text.matches('`').count()).sum();
        !marks.is_multiple_of(2)
    }
}

/// The text between the places of a format string, and what stands in the places, without how it is formatted.
fn split(format: &str) -> (Vec<String>, Vec<String>) {
    let (mut texts, mut places) = (vec![String::new()], Vec::new());
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        let Some(text) = texts.last_mut() else { break };
        text.push_str(before);
        if from.starts_with("{{") || from.starts_with("}}") {
            text.push_str(&from[..1]);
            rest = &from[2..];
            continue;
        }
        let inside = from.trim_start_matches('{').split('}').next().unwrap_or_default();
        places.push(inside.split(':').next().unwrap_or_default().to_owned());
        texts.push(String::new());
        rest = from.split_once('}').map_or("", |(_, rest)| rest);
    }
    if let Some(text) = texts.last_mut() {
        text.push_str(rest);
    }
    (texts, places)
}

/// `text` translated: as one message, else as a message and its cause, else as clauses.
fn message(rows: &[Row], language: Language, text: &str) -> Option<String> {
    if let Some((row, values)) =
        rows.iter().filter_map(|row| Some((row, row.values(text)?))).max_by_key(|(row, _)| row.own())
    {
        let value = |place: usize| {
            let value = values[place];
            if let Some(duration) = language.duration(value) {
                return duration;
            }
            let is_name = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            let may_be_message = !row.is_literal(place) && !is_name && value.len() < text.len();
            let translated = may_be_message.then(|| message(rows, language, value.trim())).flatten();
            translated.map_or_else(|| value.to_owned(), |translated| value.replacen(value.trim(), &translated, 1))
        };
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Value(place) => value(*place),
        };
        return Some(row.translated.iter().map(piece).collect());
    }
    [": ", "; "].into_iter().find_map(|separator| {
        text.rmatch_indices(separator).find_map(|(at, _)| {
            let head = whole(rows, language, &text[..at])?;
            let rest = &text[at + separator.len()..];
            let rest = message(rows, language, rest).unwrap_or_else(|| rest.to_owned());
            Some(format!("{head}{}{rest}", language.separator(separator)))
        })
    })
}

/// `text` as one message and nothing else.
fn whole(rows: &[Row], language: Language, text: &str) -> Option<String> {
    rows.iter().any(|row| row.values(text).is_some()).then(|| message(rows, language, text)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn russian(rows: &[(&str, &str)], text: &str) -> String {
        let rows: Vec<Row> = rows.iter().map(|(english, russian)| Row::new(english, russian)).collect();
        message(&rows, Language::Russian, text).unwrap_or_else(|| text.to_owned())
    }

    #[test]
    fn a_locale_names_its_language() {
        use Language::{Chinese, English, Russian};
        for (locale, language) in [
            ("zh_CN.UTF-8", Chinese),
            ("zh", Chinese),
            ("zh-Hans-SG", Chinese),
            ("zh_TW.UTF-8", English),
            ("zh_Hant_HK", English),
            ("ru_RU.UTF-8", Russian),
            ("RU", Russian),
            ("rue_UA", English),
            ("en_US.UTF-8", English),
            ("C", English),
            ("", English),
        ] {
            assert_eq!(Language::of_locale(locale), language, "{locale}");
        }
    }

    #[test]
    fn values_are_carried_over_by_place_and_by_name() {
        let rows = [("key `{key}` in `{}`: {error:#} at {}", "{3} {error} `{}` `{key}` {0}")];
        assert_eq!(russian(&rows, "key `a` in `b c`: x at y"), "y x `b c` `a` a");
    }

    #[test]
    fn the_row_that_says_most_is_taken() {
        let rows = [("it answered {}", "он ответил {}"), ("it answered {} with HTML", "он ответил {} страницей")];
        assert_eq!(russian(&rows, "it answered 502 with HTML"), "он ответил 502 страницей");
    }

    #[test]
    fn messages_in_messages_are_translated_and_names_are_not() {
        let rows = [
            ("cannot read `{}`", "не прочитать `{}`"),
            ("not there", "нет"),
            ("model", "модель"),
            ("the login failed: {why}; nothing was stored", "вход не удался: {why}; ничего не сохранено"),
            ("profile {}", "профиль {}"),
        ];
        assert_eq!(
            russian(&rows, "the login failed: cannot read `not there`: not there; nothing was stored"),
            "вход не удался: не прочитать `not there`: нет; ничего не сохранено"
        );
        assert_eq!(russian(&rows, "profile model"), "профиль model");
        assert_eq!(russian(&rows, "words of a server: not there"), "words of a server: not there");
    }

    #[test]
    fn a_value_in_parentheses_ends_with_them() {
        let rows = [("Model Studio ({})", "Студия ({})"), ("{done}, not verified", "{done}, не проверен")];
        assert_eq!(russian(&rows, "Model Studio (cn), not verified"), "Студия (cn), не проверен");
    }

    #[test]
    fn durations_have_the_units_of_the_language() {
        let rows = [("token, {left} left", "токен, осталось {left}"), ("answered {}", "ответ {}")];
        assert_eq!(russian(&rows, "token, 5 h 59 min left"), "токен, осталось 5 ч 59 мин");
        assert_eq!(russian(&rows, "token, 40 s left"), "токен, осталось 40 с");
        for text in ["answered 404", "answered 4 x", "answered 5 h more"] {
            assert_eq!(russian(&rows, text), text.replace("answered", "ответ"));
        }
    }

    #[test]
    fn a_sentence_with_several_values_is_translated_whole() {
        for (english, chinese, russian) in [
            (
                "Codex already uses profile `groq`, model `a b`: `/x y`",
                "Codex 已在使用配置 `groq`，模型 `a b`：`/x y`",
                "Codex уже использует профиль `groq`, модель `a b`: `/x y`",
            ),
            (
                "opencode uses the gateway at `http://x`, model `m`: `/x`",
                "opencode 使用网关 `http://x`，模型 `m`：`/x`",
                "opencode использует шлюз `http://x`, модель `m`: `/x`",
            ),
            (
                "groq is logged in: Groq, key gsk_…cdef",
                "groq 已登录：Groq，Key gsk_…cdef",
                "groq — вход выполнен: Groq, ключ gsk_…cdef",
            ),
            (
                "API key by command `echo`, stored 5 min ago",
                "API Key 来自命令 `echo`，5 分钟前保存",
                "ключ API от команды `echo`, сохранён 5 мин назад",
            ),
            (
                "Code: AB-12 (copied to the clipboard)",
                "用户码：AB-12（已复制到剪贴板）",
                "Код: AB-12 (скопирован в буфер обмена)",
            ),
            ("the key in `/a b/key` is empty", "`/a b/key` 中的 Key 为空", "ключ в `/a b/key` пуст"),
        ] {
            assert_eq!(Language::Chinese.translate(english), chinese);
            assert_eq!(Language::Russian.translate(english), russian);
        }
    }

    #[test]
    fn no_word_of_a_sentence_stays_english() {
        let names = ["account", "service", "requests"];
        let of_limits = names.iter().flat_map(|name| [format!("{name}: used up"), format!("{name} of `m`: used up")]);
        let sentences = [
            "check the key at https://x.cn/a (China) or https://y.com/b (elsewhere)",
            "a key that starts with `sk-sp-` belongs to `coding-plan` or `token-plan`: run `x`",
            "cannot read the keyring (`x`): it is locked",
            "cannot write to the keyring (`x`): it is locked",
            "`/x` can be read by others (mode 0644), and its mode cannot be changed: its file system ignores `chmod`",
            "`/x` can be changed by others (mode 0666), and its mode cannot be changed: its file system ignores `chmod`",
        ];
        assert_eq!(
            Language::Chinese.translate(sentences[0]),
            "请在 https://x.cn/a（中国内地）或 https://y.com/b（其他地区）检查 Key"
        );
        for english in of_limits.chain(sentences.map(str::to_owned)) {
            for language in [Language::Chinese, Language::Russian] {
                let shown = language.translate(&english);
                let outside: String = shown.split('`').step_by(2).collect();
                let words = outside.split_whitespace().filter(|word| !word.contains("://"));
                let words = words.flat_map(|word| word.split(|character: char| !character.is_ascii_alphabetic()));
                let left: Vec<&str> = words.filter(|word| !word.is_empty() && *word != "Key").collect();
                assert!(left.is_empty(), "{shown}: {left:?}");
            }
        }
    }

    #[test]
    fn what_others_wrote_stays_whole() {
        // Whatever a server says, none of it is lost by a message that looks alike.
        let said = "; nothing was stored; `{}` {0} the login failed: ";
        let text = format!("{} rejected the key: {said}; nothing was stored", "Groq");
        for language in [Language::Chinese, Language::Russian] {
            let shown = language.translate(&text);
            assert!(shown.contains("Groq") && shown.contains("`{}` {0} the login failed"), "{shown}");
        }
    }
}
