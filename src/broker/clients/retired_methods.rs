//! Methods of slm-mesh 0.1.0 that have new names. A session of that version may still be running when a newer broker
//! starts. If the session uses an old name, the error says what the user must do.

use crate::base::error::{Error, ErrorKind};

/// Each old name, with the new name.
const RETIRED: &[(&str, &str)] = &[
    ("turn.edit", "hook.edit"),
    ("turn.mail", "hook.mail"),
    ("turn.end", "hook.turn_end"),
    ("turn.wake", "wakeup.wait"),
    ("turn.rang", "wakeup.report"),
    ("shown", "inbox.mark_read"),
    ("far", "origin"),
];

/// Returns the error for a method that was renamed after slm-mesh 0.1.0; `None` for any other method.
pub fn retired(method: &str) -> Option<Error> {
    let (old, new) = RETIRED.iter().find(|(old, _)| *old == method)?;
    let text = format!(
        "the method {old} of slm-mesh 0.1.0 is called {new} in this broker; restart the session, so that it runs the \
         newer slm-mesh"
    );
    Some(Error::new(ErrorKind::Refused, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core;

    #[test]
    fn a_retired_name_is_free_and_its_successor_exists() {
        for (old, new) in RETIRED {
            assert!(core::op(old).is_none(), "{old} is still an operation");
            assert!(*new == "origin" || core::op(new).is_some(), "{new} is no operation");
        }
        assert!(retired("send").is_none());
    }
}
