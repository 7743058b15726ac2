//! Lets a peer search the messages that it has sent or received.
//!
//! **Invariant:** a search marks no message as read. Unread messages in the result stay unread, and the inbox offers
//! them again.

use super::Mail;
use super::history_scan::{self, HistoryFilter};
use super::resolve_recipients::Correspondent;
use super::search_terms::TextFilter;
use crate::base::build_json_object::json_object;
use crate::base::error::Error;
use crate::base::id_types::MessageSeq;
use crate::base::limits;
use crate::core::peers::Peers;
use crate::core::{Args, CallContext, Outcome};
use crate::store::{Message, MessageScan, ScanSource, Store};
use serde_json::{Value, json};
use std::cell::RefCell;

impl Mail {
    /// Finds the latest messages of the caller that contain all of these words. Returns the oldest of these messages
    /// first.
    pub(super) fn search(
        &self,
        store: &Store,
        peers: &Peers,
        ctx: &CallContext,
        args: &Args,
        words: &str,
        other: Option<&Correspondent>,
    ) -> Result<Outcome, Error> {
        let me = ctx.me()?;
        let view = args.text("filter");
        let mut filter = HistoryFilter::new(TextFilter::new(Some(words), None));
        filter.and(|message| match view {
            Some("sent") => message.sender == me,
            Some("unread") => message.recipient == me && message.state.is_unread(),
            _ => true,
        });
        match other {
            None => {}
            Some(Correspondent::Channel(name)) => filter.and(move |message| message.group == Some(name.as_str())),
            Some(Correspondent::Peer(id)) => {
                filter.and(move |message| if view == Some("sent") { message.recipient } else { message.sender } == id);
            }
        }
        let scan = MessageScan {
            source: ScanSource::OfPeer(me),
            after: args.int("after").map(MessageSeq).unwrap_or_default(),
            before: args.int("before").map_or(MessageSeq::MAX, MessageSeq),
            newest: true,
            rows_max: history_scan::STEP_ROWS,
            bytes_max: history_scan::STEP_BYTES,
        };
        let finder = RefCell::new(TextFilter::new(Some(words), None));
        let to_row =
            |message: &Message| self.found_row(store, peers, message, finder.borrow_mut().place_in(&message.body), me);
        let limit = args.int("limit").unwrap_or(20) as usize;
        let page = self.history(store, &scan, &mut filter, limit, limits::PAGE_MAX, to_row)?;
        let more = Value::Bool(!page.is_complete);
        let mut value = json_object([("ok", Value::Bool(true)), ("messages", page.rows.into()), ("more", more)]);
        if let Some(before) = page.cursor.filter(|_| !page.is_complete) {
            value["before"] = json!(before.0);
            value["note"] = json!(format!(
                "older messages have not been searched yet; to search them, search again with `before` set to {before}"
            ));
        }
        Ok(Outcome::Ready(value))
    }
}
