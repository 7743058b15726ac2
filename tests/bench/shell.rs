//! Measures how long a hook takes to find out which files a command line writes.

use super::figures::{Reach, Table, in_turns};
use super::place::Scratch;
use slm_mesh::shell_writes::{Disk, written_files};
use std::hint::black_box;

/// The length of a long command line, in bytes. A command line with a here-document may be this long.
const LONG: usize = 10 * 1024;
/// The number of files in the directory. Wildcards are compared with the names of these files.
const ENTRIES: usize = 50;

/// Repeats a string up to the length of a long command line.
fn long(text: &str) -> String {
    text.repeat(LONG / text.len() + 1)[..LONG].to_owned()
}

/// Measures how long it takes to find the files that a command line writes. Tries short and long command lines.
pub fn shell(table: &mut Table) {
    let scratch = Scratch::new();
    for n in 0..ENTRIES {
        std::fs::write(scratch.path.join(format!("file{n:04}.rs")), "").expect("a file");
    }
    let files = Disk::new(&scratch.path);
    let directory = scratch.path.to_string_lossy().into_owned();
    let commands = [
        ("shell, sed -i of a file", "cd src && sed -i 's/a/b/' main.rs 2>&1 | tail -5".to_owned(), 500.0),
        ("shell, 10 KB here-document", format!("cat > a.py <<'E'\n{}\nE\n", long("x = f('a') # $b\n")), 5_000.0),
        ("shell, 10 KB of commands", long("for f in a b; do sed -i s/x/y/ $f; done\n"), 5_000.0),
        ("shell, 10 KB of Python", format!("python3 - <<'E'\n{}\nE\n", long("open('a', 'w').write(b)\n")), 5_000.0),
        ("shell, 10 KB of brackets", long("{a,{b,c}}$((1))${x:-$(y)} "), 5_000.0),
        ("shell, 10 KB of wildcards", format!("rm {}", long("f*e*.r* ")), 5_000.0),
        ("shell, 10 KB of file names", (0..LONG / 14).map(|n| format!("rm a{n:04}/b.c\n")).collect(), 5_000.0),
        ("shell, 10 KB of assignments", (0..LONG / 12).map(|n| format!("(a{n:04}=$b);")).collect(), 5_000.0),
    ];
    for (work, command, most) in &commands {
        let mut run = || drop(black_box(written_files(black_box(command), &directory, &|_| None, &files)));
        let samples = in_turns(4, 25, &mut [&mut run]).remove(0);
        table.times(work, &samples, None, Reach::Median(*most));
    }
}
