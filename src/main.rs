//! The program `slm-mesh`. Passes the arguments to the module `cli`, and exits with the status that `cli` returns.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(slm_mesh::cli::main(std::env::args_os().skip(1).collect()))
}
