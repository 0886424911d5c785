//! How the end of a request is reported.

use redis::Cmd;

use super::link::Link;
use super::script::{self, FINISH};
use super::tickets::{CountedBy, Ticket};
use crate::limits::together::{Kind, Settlement, Unit, quota_slice, slice};

/// The command that reports the end of a request.
pub(super) fn finish_command(link: &Link, id: &str, ticket: &Ticket, how: Settlement) -> Cmd {
    let matters = || ticket.held().filter(|(limit, _)| how.matters_to(limit));
    let keys = 1 + matters().map(|(limit, _)| limit.number_of_keys()).sum::<usize>();
    let mut command = script::command(&FINISH, keys);
    command.arg(link.names.of(&["ended:", id].concat()));
    for (limit, _) in matters() {
        limit.add_keys(&link.names, &mut command);
    }
    command.arg(id).arg(ticket.at);
    // If the reservation itself counts as used, only the difference is reported.
    let is_reserved = matches!(&ticket.by, CountedBy::Server(epoch) if *epoch == *link.epoch.borrow());
    for (limit, held) in matters() {
        let undo = u8::from(how.undoes(limit));
        let (kind, slice, added, used, keep) = match limit.kind {
            Kind::Window { .. } => ("window", 0, 1, 0, 0),
            Kind::Quota { window } => ("quota", quota_slice(window), 1, 0, 0),
            Kind::Tokens { window, add } => {
                ("tokens", slice(window), add, how.more(Unit::Tokens, add) + add.cast_signed(), 0)
            }
            Kind::Day { .. } => ("day", 0, 1, 0, 0),
            Kind::Parallel => ("parallel", 0, 1, 0, 0),
            Kind::Spend { unit, add, ends, .. } => {
                let used = how.more(unit, held) + if is_reserved { held.cast_signed() } else { 0 };
                ("spend", 0, add, used, ends.saturating_sub(link.now()))
            }
        };
        command.arg(kind).arg(slice).arg(added).arg(undo).arg(used).arg(keep);
    }
    command
}
