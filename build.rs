//! Links GCC's unwinder statically if the C compiler provides it. The shared unwinder is a separate library. Loading
//! that library and searching it for symbols would cost 9 % of the CPU instructions of a verb.

use std::env;
use std::path::Path;
use std::process::Command;

/// The linker reads this script in place of the shared unwinder.
const LINKER_SCRIPT: &str = "GROUP ( libgcc_eh.a libgcc.a )\n";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The Makefile passes this file to the linker, so a change to the file requires a new build.
    println!("cargo::rerun-if-changed=src/link_order.ld");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let is_gnu_linux =
        variable("CARGO_CFG_TARGET_OS") == "linux" && variable("CARGO_CFG_TARGET_ENV") == "gnu";
    // In a cross build, this script does not know which C compiler links the program.
    if is_gnu_linux && variable("TARGET") == variable("HOST") && has_static_unwinder() {
        let folder = variable("OUT_DIR");
        if std::fs::write(Path::new(&folder).join("libgcc_s.so"), LINKER_SCRIPT).is_ok() {
            println!("cargo::rustc-link-search=native={folder}");
        }
    }
}

/// Whether the C compiler has the static unwinder. If it does, the compiler prints the full path of the library file.
/// If not, the compiler prints only the file's name.
fn has_static_unwinder() -> bool {
    let asked = Command::new("cc")
        .arg("-print-file-name=libgcc_eh.a")
        .output();
    asked.is_ok_and(|output| output.stdout.starts_with(b"/"))
}
