//! Access to the web page. A code opens the page once, and begins a session.
//!
//! A session has two secrets, and a request needs both. The cookie stays in the browser. No script can read it, but the
//! browser sends it to every port of this machine. The key stays in the page, and goes to no other port.
//!
//! **Invariant:** codes and sessions are never written to disk, so they end when the broker ends.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;

/// How long an unused code is valid.
const CODE_LASTS: Duration = Duration::from_secs(60);
/// Maximum number of unused codes. A further code replaces the oldest one.
const CODES_MAX: usize = 8;
/// How long an unused session is valid.
const SESSION_LASTS: Duration = Duration::from_secs(12 * 3600);
/// Maximum number of sessions. A further session replaces the session that has been unused for the longest time.
const SESSIONS_MAX: usize = 16;

/// The valid codes and sessions, which the event loop and the HTTP thread share.
pub struct WebAuth {
    chance: fn() -> u128,
    state: Mutex<AuthState>,
}

#[derive(Default)]
struct AuthState {
    codes: Vec<(String, Instant)>,
    sessions: Vec<PageSession>,
}

struct PageSession {
    cookie: String,
    /// The key of the session; `None` until the page has requested the key. The page can request the key only once.
    key: Option<String>,
    used: Instant,
}

impl WebAuth {
    /// Starts without codes and sessions. `chance` returns unpredictable numbers.
    pub fn new(chance: fn() -> u128) -> WebAuth {
        WebAuth { chance, state: Mutex::default() }
    }

    /// Creates a code that opens the page once.
    pub fn new_code(&self, now: Instant) -> String {
        let code = self.new_secret();
        let mut state = self.valid_state(now);
        make_room(&mut state.codes, CODES_MAX);
        state.codes.push((code.clone(), now));
        code
    }

    /// Exchanges an unused code for a session, and returns the cookie of the session.
    pub fn redeem(&self, code: &str, now: Instant) -> Option<String> {
        let mut state = self.valid_state(now);
        let place = find(&state.codes, |(known, _)| is_same(known, code))?;
        state.codes.remove(place);
        make_room(&mut state.sessions, SESSIONS_MAX);
        let cookie = self.new_secret();
        state.sessions.push(PageSession { cookie: cookie.clone(), key: None, used: now });
        Some(cookie)
    }

    /// Returns the key of a session on the first call, and `None` on later calls.
    pub fn claim_key(&self, cookie: &str, now: Instant) -> Option<String> {
        let mut state = self.valid_state(now);
        let place = find(&state.sessions, |session| is_same(&session.cookie, cookie))?;
        let session = state.sessions.get_mut(place).filter(|session| session.key.is_none())?;
        session.key = Some(self.new_secret());
        session.key.clone()
    }

    /// Whether a cookie and a key belong to the same session. If so, records that the session is used at `now`.
    pub fn admits(&self, cookie: &str, key: &str, now: Instant) -> bool {
        let mut state = self.valid_state(now);
        let fits = |session: &PageSession| {
            let key = session.key.as_deref().is_some_and(|known| is_same(known, key));
            is_same(&session.cookie, cookie) & key
        };
        let Some(place) = find(&state.sessions, fits) else { return false };
        let mut session = state.sessions.remove(place);
        session.used = now;
        state.sessions.push(session);
        true
    }

    /// Locks the state, and removes the codes and sessions that are no longer valid.
    fn valid_state(&self, now: Instant) -> MutexGuard<'_, AuthState> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.codes.retain(|(_, made)| now.saturating_duration_since(*made) < CODE_LASTS);
        state.sessions.retain(|session| now.saturating_duration_since(session.used) < SESSION_LASTS);
        state
    }

    fn new_secret(&self) -> String {
        format!("{:032x}", (self.chance)())
    }
}

/// Finds an item. All items are compared, so that the duration of the search does not reveal which item matches.
fn find<T>(list: &[T], fits: impl Fn(&T) -> bool) -> Option<usize> {
    list.iter().enumerate().fold(None, |found, (n, item)| if fits(item) { Some(n) } else { found })
}

fn is_same(known: &str, given: &str) -> bool {
    known.as_bytes().ct_eq(given.as_bytes()).into()
}

/// Drops the oldest items, which are at the beginning, to make room for one more.
fn make_room<T>(list: &mut Vec<T>, max: usize) {
    let n_over = (list.len() + 1).saturating_sub(max);
    list.drain(..n_over);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn auth() -> WebAuth {
        static N: AtomicU64 = AtomicU64::new(1);
        WebAuth::new(|| u128::from(N.fetch_add(1, Ordering::Relaxed)))
    }

    #[test]
    fn a_code_opens_once_and_within_a_minute() {
        let (auth, now) = (auth(), Instant::now());
        let (one, two) = (auth.new_code(now), auth.new_code(now));
        assert_eq!(auth.redeem("", now), None);
        let cookie = auth.redeem(&one, now).unwrap();
        assert_eq!(auth.redeem(&one, now), None);
        assert_ne!(cookie, one);
        assert_eq!(auth.redeem(&two, now + CODE_LASTS), None);
    }

    #[test]
    fn only_cookie_and_key_together_are_admitted() {
        let (auth, now) = (auth(), Instant::now());
        let (one, two) = [(); 2].map(|()| auth.redeem(&auth.new_code(now), now).unwrap()).into();
        assert!(!auth.admits(&one, "", now), "no key has been issued yet");
        let (key, other) = (auth.claim_key(&one, now).unwrap(), auth.claim_key(&two, now).unwrap());
        assert_eq!(auth.claim_key(&one, now), None, "a key is issued only once");
        assert!(auth.admits(&one, &key, now));
        assert!(!auth.admits(&one, &other, now) && !auth.admits(&key, &one, now) && !auth.admits("", &key, now));
        let late = now + SESSION_LASTS / 2;
        assert!(auth.admits(&one, &key, late));
        assert!(auth.admits(&one, &key, now + SESSION_LASTS), "it was used since");
        assert!(!auth.admits(&two, &other, now + SESSION_LASTS));
    }

    #[test]
    fn codes_and_sessions_are_bounded() {
        let (auth, now) = (auth(), Instant::now());
        let codes: Vec<String> = (0..=CODES_MAX).map(|_| auth.new_code(now)).collect();
        assert_eq!(auth.redeem(&codes[0], now), None);
        assert!(auth.redeem(&codes[1], now).is_some());
        let cookies: Vec<String> = (0..=SESSIONS_MAX).map(|_| auth.redeem(&auth.new_code(now), now).unwrap()).collect();
        assert_eq!(auth.claim_key(&cookies[0], now), None);
        assert!(auth.claim_key(&cookies[1], now).is_some());
    }
}
