//! Collects the pages of the message log, or of a search in an inbox, into one answer. The broker returns long lists in
//! pages, so that it can serve other clients in between.

use serde_json::{Map, Value, json};

/// A list that the broker returns page by page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchedList {
    /// The message log. If the call contains the cursor `after`, the pages go forward in time. Otherwise, they go
    /// backward.
    Log,
    /// A search in the inbox of one peer. The pages go backward in time.
    Inbox,
}

impl SearchedList {
    /// The number of messages to show if the user gives no number.
    fn limit(self) -> u64 {
        match self {
            SearchedList::Log => 50,
            SearchedList::Inbox => 20,
        }
    }
}

/// Requests pages until `limit` messages are collected or there are no more messages. Returns all messages in one
/// answer, oldest first. If the pages go backward in time, `next` in the answer is the end of the log at the time of
/// the first page. A later call can continue from there.
pub fn collect<E>(
    list: SearchedList,
    params: &Map<String, Value>,
    mut call: impl FnMut(&Map<String, Value>) -> Result<Value, E>,
) -> Result<Value, E> {
    let mut params = params.clone();
    let is_forward = list == SearchedList::Log && params.contains_key("after");
    let limit = params.get("limit").and_then(Value::as_u64).unwrap_or(list.limit()) as usize;
    let mut rows: Vec<Value> = Vec::new();
    let mut stands = None;
    loop {
        params.insert("limit".into(), json!(limit - rows.len()));
        let mut answer = call(&params)?;
        let page = match answer["messages"].take() {
            Value::Array(page) => page,
            _ => Vec::new(),
        };
        rows = if is_forward { [rows, page].concat() } else { [page, rows].concat() };
        let (name, cursor) = match is_forward {
            true => ("after", answer["next"].clone()),
            false => ("before", answer["before"].clone()),
        };
        let first = stands.get_or_insert_with(|| answer["next"].clone());
        if rows.len() >= limit || answer["more"] != json!(true) || cursor.is_null() {
            if !is_forward && !first.is_null() {
                answer["next"] = first.clone();
            }
            answer["messages"] = json!(rows);
            return Ok(answer);
        }
        params.insert(name.into(), cursor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Error;

    fn row(seq: i64, group: Option<&str>) -> Value {
        let text = if group.is_some() { "to a group" } else { "to one" };
        json!({
            "seq": seq, "fromPeer": "a", "group": group, "createdAt": "t", "payload": text, "receipt": "read",
        })
    }

    #[test]
    fn pages_are_read_until_there_are_enough_and_stand_in_order() {
        // Messages 1 to 6, two per page. Messages 3 and 4 are copies of one message to a group.
        let all: Vec<Value> = (1..=6).map(|n| row(n, (n == 3 || n == 4).then_some("repo"))).collect();
        let page = |params: &Map<String, Value>| {
            let before = params.get("before").and_then(Value::as_i64).unwrap_or(7);
            let first = (before - 2).max(1);
            let rows = &all[first as usize - 1..before as usize - 1];
            Ok::<_, Error>(json!({ "messages": rows, "more": first > 1, "before": first, "next": 6 }))
        };
        let seqs = |answer: &Value| -> Vec<i64> {
            answer["messages"].as_array().unwrap().iter().map(|row| row["seq"].as_i64().unwrap()).collect()
        };
        let answer = collect(SearchedList::Log, &Map::from_iter([("limit".to_owned(), json!(9))]), page).unwrap();
        assert_eq!(seqs(&answer), [1, 2, 3, 4, 5, 6]);
        assert_eq!((&answer["more"], &answer["next"]), (&json!(false), &json!(6)));
        let answer = collect(SearchedList::Log, &Map::from_iter([("limit".to_owned(), json!(2))]), page).unwrap();
        assert_eq!((seqs(&answer), &answer["more"]), (vec![5, 6], &json!(true)));
    }
}
