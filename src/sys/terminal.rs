//! The user's terminal: raw mode, size and keys.
//!
//! **Invariant:** the terminal is restored to its earlier state at the end, on a panic and on a signal.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

/// Switches to the alternate screen, without line wrapping and without a cursor.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?7l\u{1b}[?25l\u{1b}[2J";
/// Restores the normal screen.
const LEAVE: &str = "\u{1b}[0m\u{1b}[?25h\u{1b}[?7h\u{1b}[?1049l";

/// The modes of the terminal before this program changed them; `None` if they have been restored.
static WAS: Mutex<Option<Termios>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// What happened during a [`Terminal::wait`].
#[derive(Debug, Default)]
pub struct TerminalEvent {
    /// The keys that were pressed, as bytes; empty if there were none.
    pub keys: Vec<u8>,
    /// Whether the terminal is gone. If it is gone, no more keys will come.
    pub closed: bool,
    /// Whether the descriptor that the caller passed to [`Terminal::wait`] is readable.
    pub other: bool,
    /// Whether the screen must be drawn again, because its size has changed or another program has written to it.
    pub anew: bool,
    /// The number of a signal that tells the program to end, such as SIGTERM.
    pub end: Option<i32>,
}

/// The terminal, which is in raw mode until this value is dropped.
#[derive(Debug)]
pub struct Terminal {
    signals: UnixStream,
    ending: Arc<AtomicUsize>,
    continued: Arc<AtomicUsize>,
}

impl Terminal {
    /// Takes over the terminal on standard input and output.
    ///
    /// # Errors
    /// If there is no terminal, or signals can't be watched.
    pub fn take() -> io::Result<Terminal> {
        let (signals, writer) = UnixStream::pair()?;
        signals.set_nonblocking(true)?;
        let (ending, continued) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for (signal, flag) in [(SIGTERM, &ending), (SIGINT, &ending), (SIGHUP, &ending), (SIGCONT, &continued)] {
            signal_hook::flag::register_usize(signal, Arc::clone(flag), signal as usize)?;
        }
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGCONT, SIGWINCH] {
            signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        HOOK.call_once(|| {
            let tell = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                // Without this call, the panic's message would be printed to the alternate screen and then disappear.
                restore();
                tell(info);
            }));
        });
        enter()?;
        Ok(Terminal { signals, ending, continued })
    }

    /// The number of columns and rows; 80 by 24 if the terminal does not report them.
    pub fn size(&self) -> (usize, usize) {
        let size = tcgetwinsize(io::stdout()).map_or((0, 0), |size| (size.ws_col, size.ws_row));
        let or = |n: u16, other: usize| if n == 0 { other } else { usize::from(n) };
        (or(size.0, 80), or(size.1, 24))
    }

    /// Waits for keys, for a signal, or for input on `other`, but not longer than `time`.
    ///
    /// # Errors
    /// If the kernel refuses to wait.
    pub fn wait(&mut self, other: Option<BorrowedFd<'_>>, time: Option<Duration>) -> io::Result<TerminalEvent> {
        let input = io::stdin();
        let mut fds = vec![PollFd::new(&input, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let time = time.map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) });
        match poll(&mut fds, time.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let has: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut woken = TerminalEvent { other: has.get(2) == Some(&true), ..TerminalEvent::default() };
        if has[0] {
            let mut buffer = [0; 1024];
            match rustix::io::read(input.as_fd(), &mut buffer) {
                Ok(0) => woken.closed = true,
                Ok(n) => woken.keys.extend_from_slice(&buffer[..n]),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(_) => woken.closed = true,
            }
        }
        if has[1] {
            let mut buffer = [0; 64];
            // The bytes say only that a signal has arrived. The flags below say which signal.
            while self.signals.read(&mut buffer).is_ok_and(|n| n == buffer.len()) {}
            woken.anew = true;
        }
        woken.end = Some(self.ending.load(Ordering::Relaxed) as i32).filter(|signal| *signal != 0);
        if self.continued.swap(0, Ordering::Relaxed) != 0 {
            // The shell may have changed the modes while this program was stopped.
            enter()?;
            woken.anew = true;
        }
        Ok(woken)
    }

    /// Writes to the terminal.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn write(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Restores the terminal and stops this job, like Ctrl-Z in other programs. When the job continues,
    /// [`Terminal::wait`] takes over the terminal again.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn suspend(&self) -> io::Result<()> {
        restore();
        rustix::process::kill_current_process_group(Signal::TSTP)?;
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether standard input and output are a terminal whose cursor can be moved.
pub fn is_capable() -> bool {
    use std::io::IsTerminal;
    let term = std::env::var("TERM").unwrap_or_default();
    io::stdin().is_terminal() && io::stdout().is_terminal() && !term.is_empty() && term != "dumb"
}

/// The number of columns of the terminal on standard output; `None` if the output goes elsewhere.
pub fn columns() -> Option<usize> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    Some(if size.ws_col == 0 { 80 } else { usize::from(size.ws_col) })
}

/// Whether the user wants colours.
pub fn has_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn enter() -> io::Result<()> {
    let now = tcgetattr(io::stdin())?;
    let mut raw = now.clone();
    raw.make_raw();
    WAS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(now);
    tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
    let mut out = io::stdout().lock();
    out.write_all(ENTER.as_bytes())?;
    out.flush()
}

/// Restores the terminal if this has not been done yet.
fn restore() {
    let Some(was) = WAS.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    // If the terminal is gone, there is nothing to restore.
    let mut out = io::stdout();
    let _ = out.write_all(LEAVE.as_bytes()).and_then(|()| out.flush());
    let _ = tcsetattr(io::stdin(), OptionalActions::Now, &was);
}
