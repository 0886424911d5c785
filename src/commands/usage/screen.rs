//! `usage` as a person sees it: what was used by day, profile and model, and what limits leave.

use std::time::SystemTime;

use super::{Limit, by_model};
use crate::epoch;
use crate::error::printable;
use crate::say::{Screen, Style, Table, cell, columns, in_words, short};
use crate::usage::{Counts, Summary};

/// Shown with every answer, because other programs may use the same account.
const COUNTED: &str = "gateway traffic only; other use of the account is not included";

pub(super) const NOTHING: &str = "no request went through the gateway in this period";

/// Columns of a bar, where there is room.
const BAR: usize = 20;

/// Share of a limit, in percent, from which on its bar is a warning.
const NEAR: u64 = 80;

pub(super) fn text(summary: &Summary, limits: &[Limit], screen: Screen, now: SystemTime) -> String {
    let mut lines = Vec::new();
    if summary.counts.is_empty() {
        lines.extend(screen.wrap(&screen.translate(NOTHING), 0, 0));
    } else {
        lines.extend(used(summary, screen));
    }
    if !limits.is_empty() {
        lines.push(String::new());
        lines.push(screen.paint(Style::Dim, &screen.translate("LIMITS")));
        lines.extend(left(limits, screen, now));
    }
    lines.push(String::new());
    lines.extend(screen.wrap(&screen.translate(COUNTED), 0, 0).iter().map(|line| screen.paint(Style::Dim, line)));
    lines.join("\n") + "\n"
}

/// A count on this screen: short on a terminal, whole in a pipe.
pub(super) fn count(number: u64, screen: Screen) -> String {
    if screen.width().is_some() { short(number) } else { number.to_string() }
}

fn used(summary: &Summary, screen: Screen) -> Vec<String> {
    let mut table = Table::new().fixed("DAY").text("PROFILE").text("MODEL");
    table = ["REQUESTS", "SENT", "IN", "OUT", "429", "WAIT"].into_iter().fold(table, Table::number);
    for ((day, profile, _, model), counts) in by_model(summary) {
        let Counts { requests, tries, prompt_tokens, completion_tokens, rate_limited, wait_ms, .. } = counts;
        let mut row = vec![day.to_owned(), printable(profile), printable(model)];
        let counted = [requests, tries, prompt_tokens, completion_tokens, rate_limited];
        row.extend(counted.map(|number| count(number, screen)));
        row.push(match wait_ms.div_ceil(1000) {
            0 => "0".to_owned(),
            seconds => format!("{}s", count(seconds, screen)),
        });
        table.row(row);
    }
    table.lines(screen)
}

/// A line a limit where all of them fit, else two.
fn left(limits: &[Limit], screen: Screen, now: SystemTime) -> Vec<String> {
    let widest = |texts: &[String]| texts.iter().map(|text| columns(text)).max().unwrap_or(0);
    let profiles: Vec<String> = limits.iter().map(|limit| printable(&limit.profile)).collect();
    let names: Vec<String> = limits.iter().map(|limit| limit.title(screen)).collect();
    let states: Vec<String> = limits.iter().map(|limit| limit.state(screen, now)).collect();
    let (profile, name) = (widest(&profiles), widest(&names));
    let bars = if screen.shows_marks() { [BAR, BAR / 2] } else { [0, 0] };
    let rest = profile + 2 + name + 2 + 2 + widest(&states);
    // A short bar rather than two lines.
    let one_line = bars.into_iter().find(|bar| screen.width().is_none_or(|width| rest + bar <= width));
    let mut lines = Vec::new();
    for (limit, ((own, title), state)) in limits.iter().zip(profiles.iter().zip(&names).zip(&states)) {
        let shown = limit.bar(one_line.unwrap_or(bars[0]), screen) + &limit.painted(state, screen);
        if one_line.is_some() {
            lines.push(format!("{}  {}  {shown}", cell(own, profile), cell(title, name)));
        } else {
            lines.extend(screen.wrap(&format!("{}  {title}", cell(own, profile)), 0, profile + 2));
            lines.push(format!("  {shown}"));
        }
    }
    lines
}

impl Limit {
    fn title(&self, screen: Screen) -> String {
        let model = self.model.as_deref().map(|model| format!(", {model}")).unwrap_or_default();
        // A provider's own name for a limit is one word.
        let name = if self.name.contains(' ') { screen.translate(&self.name) } else { self.name.clone() };
        printable(&format!("{name}{model}"))
    }

    fn state(&self, screen: Screen, now: SystemTime) -> String {
        let mut text = match self.figure {
            Some((most, used)) => format!("{used} of {most} used"),
            None => "used up".to_owned(),
        };
        if self.is_over {
            text += ", reached";
        }
        if let Some(resets_at) = self.resets_at {
            match (screen.width(), resets_at.duration_since(now)) {
                (Some(_), Ok(left)) => text += &format!(", resets in {}", in_words(left)),
                // An expired figure was stated for a time that has passed.
                (Some(_), Err(_)) => {}
                (None, _) => text += &epoch::rfc3339(resets_at).map(|at| format!(", resets {at}")).unwrap_or_default(),
            }
        }
        screen.translate(&text)
    }

    fn style(&self) -> Style {
        match self.figure {
            _ if self.is_over => Style::Error,
            Some((most, used)) if used.saturating_mul(100) >= most.saturating_mul(NEAR) => Style::Warning,
            _ => Style::Success,
        }
    }

    /// How much is used, drawn where it can be.
    fn bar(&self, width: usize, screen: Screen) -> String {
        if width == 0 {
            return String::new();
        }
        let full = match self.figure {
            _ if self.is_over => width,
            Some((most, used)) => {
                usize::try_from(used.min(most).saturating_mul(width as u64) / most.max(1)).unwrap_or(width)
            }
            None => width,
        };
        screen.paint(self.style(), &("█".repeat(full) + &"░".repeat(width - full))) + "  "
    }

    /// Red where nothing is left.
    fn painted(&self, state: &str, screen: Screen) -> String {
        if self.is_over { screen.paint(Style::Error, state) } else { state.to_owned() }
    }
}
