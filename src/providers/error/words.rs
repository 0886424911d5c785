//! The words and codes by which services name a limit, and the words by which they advertise.
//!
//! A message is split into sentences. What follows an advertising word in a sentence is dropped, links are dropped, and
//! the rest is normalized: `free-models-per-day`, `RequestsPerDay` and `per day` are the same words.

use super::Cause;

/// What decides. A test leaves out one row after another.
#[derive(Debug, Default)]
pub(super) struct Data {
    #[cfg(test)]
    pub(super) without: Option<&'static str>,
}

type Rows = &'static [(&'static str, Cause)];

/// Codes that mean the same wherever they are used. Those of one provider only are in its description.
pub(super) const CODES: Rows = &[
    ("invalid_api_key", Cause::Credential),
    ("InvalidApiKey", Cause::Credential),
    ("API_KEY_INVALID", Cause::Credential),
    ("limit_requests", Cause::Busy),
    ("limit_burst_rate", Cause::Busy),
    ("overloaded_error", Cause::Busy),
    ("AllocationQuota.FreeTierOnly", Cause::FreeTier),
    ("Arrearage", Cause::Unpaid),
    ("AccountOverdueError", Cause::Unpaid),
    ("billing_hard_limit_reached", Cause::Unpaid),
    ("MONTHLY_REQUEST_COUNT", Cause::Month),
];

/// Codes that some services use for a minute and others for a plan. They count if nothing else is stated.
pub(super) const AMBIGUOUS_CODES: Rows =
    &[("insufficient_quota", Cause::Minute), ("Throttling.AllocationQuota", Cause::Minute)];

/// Words for a limit. `…` is a gap of a few words or characters.
const WORDS: Rows = &[
    ("request too large", Cause::TooLarge),
    ("per minute", Cause::Minute),
    ("per min", Cause::Minute),
    ("this minute", Cause::Minute),
    ("a minute", Cause::Minute),
    ("tpm", Cause::Minute),
    ("rpm", Cause::Minute),
    ("per second", Cause::Minute),
    ("qps", Cause::Minute),
    ("每分钟", Cause::Minute),
    ("每秒", Cause::Minute),
    ("per hour", Cause::Hour),
    ("hourly", Cause::Hour),
    ("每小时", Cause::Hour),
    ("5 hour", Cause::FiveHours),
    ("5 hours", Cause::FiveHours),
    ("5h", Cause::FiveHours),
    ("hour allocated quota", Cause::FiveHours),
    ("5小时", Cause::FiveHours),
    ("per day", Cause::Day),
    ("daily", Cause::Day),
    ("tpd", Cause::Day),
    ("rpd", Cause::Day),
    ("today s … quota", Cause::Day),
    ("today s … limit", Cause::Day),
    ("tomorrow", Cause::Day),
    ("每日", Cause::Day),
    ("每天", Cause::Day),
    ("今日…额", Cause::Day),
    ("今日…上限", Cause::Day),
    ("明天", Cause::Day),
    ("per week", Cause::Week),
    ("weekly", Cause::Week),
    ("week allocated quota", Cause::Week),
    ("1 week", Cause::Week),
    ("7 day", Cause::Week),
    ("每周", Cause::Week),
    ("本周…额", Cause::Week),
    ("per month", Cause::Month),
    ("monthly", Cause::Month),
    ("month allocated quota", Cause::Month),
    ("每月", Cause::Month),
    ("本月…额", Cause::Month),
    ("free allocated quota", Cause::FreeTier),
    ("free quota", Cause::FreeTier),
    ("free tier only", Cause::FreeTier),
    ("free tier quota", Cause::FreeTier),
    ("免费额度", Cause::FreeTier),
    ("arrears", Cause::Unpaid),
    ("overdue", Cause::Unpaid),
    ("unpaid", Cause::Unpaid),
    ("insufficient … balance", Cause::Unpaid),
    ("suspended", Cause::Unpaid),
    ("欠费", Cause::Unpaid),
    ("余额不足", Cause::Unpaid),
];

/// Fragments of links to the description of a limit.
const LINKS: Rows = &[("#token-limit", Cause::Minute)];

/// Words that begin an offer. What follows in the sentence has nothing to do with the rejection.
const SELLING: &[&str] = &[
    "add",
    "buy",
    "contact",
    "get",
    "higher",
    "increase",
    "purchase",
    "raise",
    "subscribe",
    "unlock",
    "upgrade",
    "want",
    "充值",
    "升级",
    "联系",
    "购买",
    "开通",
    "续费",
    "提升",
    "提高",
    "更高",
    "更多",
];

/// Words that tie a limit to one model.
const OF_A_MODEL: &[&str] = &["for model", "this model", "per model", "free models", "该模型"];

/// Between the two parts of a pattern with `…`, in bytes.
const GAP: usize = 48;

impl Data {
    #[cfg(test)]
    fn has(&self, row: &str) -> bool {
        self.without != Some(row)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the tests have one that leaves out a row")]
    fn has(&self, _row: &str) -> bool {
        true
    }

    pub(super) fn code(&self, codes: Rows, code: &str) -> Option<Cause> {
        let known = codes.iter().find(|(known, _)| known.eq_ignore_ascii_case(code) && self.has(known));
        known.map(|(_, cause)| *cause)
    }

    /// Every row, for the test that leaves them out.
    #[cfg(test)]
    pub(super) fn rows() -> Vec<&'static str> {
        let paired = [CODES, AMBIGUOUS_CODES, WORDS, LINKS].concat().into_iter().map(|(row, _)| row);
        paired.chain(SELLING.iter().copied()).chain(OF_A_MODEL.iter().copied()).collect()
    }
}

/// A message in one spelling.
pub(super) struct Normalized {
    /// Words between single spaces, ` | ` after each sentence.
    words: String,
    /// The same without spaces, for writing that has none.
    compact: String,
    link: Option<Cause>,
}

impl Normalized {
    pub(super) fn of(text: &str, data: &Data) -> Self {
        let (text, link) = without_links(text, data);
        let mut words = String::from(" ");
        for sentence in sentences(&text) {
            words.push_str(before_offer(&spell(sentence), data));
            words.push_str(" | ");
        }
        let compact = words.replace(' ', "");
        Self { words, compact, link }
    }

    /// The cause that the words name: a request or a minute first, then the longest window, then the account.
    pub(super) fn cause(&self, data: &Data) -> Option<Cause> {
        let named = WORDS.iter().filter(|(pattern, _)| data.has(pattern) && self.has(pattern)).map(|(_, cause)| *cause);
        let named: Vec<Cause> = named.chain(self.link).collect();
        let short = [Cause::TooLarge, Cause::Minute].into_iter().find(|cause| named.contains(cause));
        let window = named.iter().copied().filter(|cause| cause.is_window()).max();
        short.or(window).or_else(|| named.iter().copied().max())
    }

    pub(super) fn names_model(&self, data: &Data) -> bool {
        OF_A_MODEL.iter().any(|pattern| data.has(pattern) && self.has(pattern))
    }

    fn has(&self, pattern: &str) -> bool {
        let (first, second) = pattern.split_once('…').unwrap_or((pattern, ""));
        let is_ascii = first.is_ascii();
        let spaced = |part: &str| if is_ascii { format!(" {} ", part.trim()) } else { part.to_owned() };
        let text = if is_ascii { &self.words } else { &self.compact };
        let first = spaced(first);
        text.match_indices(&first).any(|(at, found)| {
            // The space after a word is the one before the next.
            let rest = &text[at + found.len() - usize::from(is_ascii)..];
            second.is_empty() || follows(rest, &spaced(second))
        })
    }
}

/// Whether `part` follows in the same sentence, within a few words.
fn follows(text: &str, part: &str) -> bool {
    let sentence = text.split('|').next().unwrap_or_default();
    sentence.find(part).is_some_and(|at| at <= GAP)
}

/// The text without its links, and what a link alone reveals.
fn without_links(text: &str, data: &Data) -> (String, Option<Cause>) {
    let mut kept = String::with_capacity(text.len());
    let mut link = None;
    let mut rest = text;
    while let Some(at) = [rest.find("http://"), rest.find("https://")].into_iter().flatten().min() {
        kept.push_str(&rest[..at]);
        let ends = |letter: char| letter.is_whitespace() || !letter.is_ascii();
        let end = rest[at..].find(ends).map_or(rest.len(), |end| at + end);
        let url = &rest[at..end];
        let known = LINKS.iter().find(|(fragment, _)| data.has(fragment) && url.contains(fragment));
        link = link.or(known.map(|(_, cause)| *cause));
        // A full stop after a link ends the sentence.
        kept.push_str(if url.ends_with('.') { ". " } else { " " });
        rest = &rest[end..];
    }
    kept.push_str(rest);
    (kept, link)
}

/// A full stop ends a sentence only before white space: `2.5` and `qwen3.8` have one inside.
fn sentences(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let ends = |(at, letter): (usize, char)| {
            let end = at + letter.len_utf8();
            let is_end = match letter {
                '\n' | ';' | '。' | '！' | '？' | '；' => true,
                '.' | '!' | '?' => rest[end..].chars().next().is_none_or(char::is_whitespace),
                _ => false,
            };
            is_end.then_some(end)
        };
        let end = rest.char_indices().find_map(ends).unwrap_or(rest.len());
        let (sentence, left) = rest.split_at(end);
        rest = left;
        (!sentence.is_empty()).then_some(sentence)
    })
}

/// Lower case, words apart by one space: `PerDay`, `per_day` and `per-day` become `per day`.
fn spell(sentence: &str) -> String {
    let mut spelled = String::with_capacity(sentence.len() + 8);
    let mut last = ' ';
    for letter in sentence.chars() {
        let begins_word = letter.is_ascii_uppercase() && last.is_ascii_lowercase();
        if (begins_word || !letter.is_alphanumeric()) && !spelled.ends_with(' ') && !spelled.is_empty() {
            spelled.push(' ');
        }
        if letter.is_alphanumeric() {
            spelled.extend(letter.to_lowercase());
        }
        last = letter;
    }
    spelled.truncate(spelled.trim_end().len());
    spelled
}

/// The text before the first advertising word.
fn before_offer<'a>(spelled: &'a str, data: &Data) -> &'a str {
    let is_whole = |at: usize, word: &str| {
        let before = spelled[..at].chars().next_back();
        let after = spelled[at + word.len()..].chars().next();
        !word.is_ascii() || [before, after].into_iter().all(|letter| letter.is_none_or(|letter| letter == ' '))
    };
    let first = SELLING
        .iter()
        .filter(|word| data.has(word))
        .filter_map(|word| spelled.match_indices(word).map(|(at, _)| at).find(|at| is_whole(*at, word)))
        .min();
    spelled[..first.unwrap_or(spelled.len())].trim_end()
}
