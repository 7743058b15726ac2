//! Tests shell branches whose condition is known. A branch that can't run writes no files.

use super::forms::check;

#[test]
fn a_file_that_exists_decides() {
    check(&[
        ("[ -f foo.py ] || echo > foo.py", &[]),
        ("test -e foo.py || touch foo.py", &[]),
        ("[[ ! -e foo.py ]] && echo > foo.py", &[]),
        ("! [ -f foo.py ] && echo > foo.py", &[]),
        ("[ ! -f foo.py ] && echo > foo.py || echo > a", &["a"]),
        ("if [ ! -f foo.py ]; then echo > foo.py; fi", &[]),
        ("if ! test -f foo.py; then echo > foo.py; else echo > a; fi", &["a"]),
        ("if [ -f foo.py ] && [ -d src ]; then echo > a; else echo > foo.py; fi", &["a"]),
        ("[ -d foo.py ] && rm foo.py; [ -d src ] && rm a", &["a"]),
        ("test -f foo.py && echo yes || touch foo.py; [ -s foo.py ] || echo > foo.py", &[]),
        ("[[ -f foo.py && -d new ]] && rm foo.py; [ -f new -o -f foo.py ] || rm foo.py; [ -L foo.py ] && rm a", &[]),
        ("cd new && rm ../foo.py; cd src && rm ../a", &["a"]),
        ("cd new; rm a", &["a"]),
        ("set -e; cd new; rm a", &[]),
        ("[ -f foo.py ] && exit 0; echo > foo.py", &[]),
        ("if [ -f foo.py ]; then exit 0; fi; echo > foo.py", &[]),
        ("for f in foo.py new.py; do [ -e $f ] && continue; echo > $f; done", &["new.py"]),
        ("until [ -f foo.py ]; do echo > foo.py; done; while [ -f new.py ]; do rm a; done", &[]),
        ("f() { [ -f foo.py ] && return; echo > foo.py; }; f; echo > a", &["a"]),
        ("M=w; [ \"$M\" = w ] && echo > a; [ \"$M\" = r ] && echo > b; [[ $M == * ]] || echo > c", &["a", "c"]),
    ]);
}

#[test]
fn what_the_script_may_have_changed_decides_nothing() {
    check(&[
        ("rm foo.py; [ -f foo.py ] || echo > foo.py", &["foo.py"]),
        ("touch new.py; [ -f new.py ] || exit 1; rm a", &["a", "new.py"]),
        ("make; [ -f new.py ] || exit 1; rm a", &["a"]),
        ("mv src/lib.rs b; [ -f src/lib.rs ] || echo > a", &["a", "b", "src/lib.rs"]),
        ("[ -f $UNKNOWN ] || echo > a; [ -x foo.py ] || echo > b", &["a", "b"]),
        ("grep -q x foo.py || echo x >> foo.py", &["foo.py"]),
        ("mkdir -p new; cd new && rm ../a; make; cd /work/app/other && rm ../b", &["a", "b"]),
    ]);
}

#[test]
fn what_follows_an_end_does_not_run() {
    check(&[
        ("for f in a b; do rm $f; break; done; rm c", &["a", "c"]),
        ("for f in a b; do continue; rm $f; done", &[]),
        ("for f in a b; do rm $f; exit; done; rm c", &["a"]),
        ("f() { return; rm a; }; f; rm b", &["b"]),
        ("f() { exit; }; f; rm a", &[]),
        ("true && exit; rm a", &[]),
        ("x && exit; rm a", &["a"]),
        ("exec ls; rm a", &[]),
        ("set -e; false; rm a", &[]),
        ("set -e\nif false; then :; fi; false || rm a\nfalse\nrm b", &["a"]),
        ("exec > a; rm b", &["a", "b"]),
        ("while false; do rm a; done; until true; do rm b; done; until false; do rm c; done", &["c"]),
        ("if true; then rm a; else rm b; fi", &["a"]),
        ("select x in a; do rm a; done", &[]),
    ]);
}
