//! The program `slm-mesh`. The module `cli` turns its arguments into an exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(slm_mesh::cli::main(std::env::args_os().skip(1).collect()))
}
