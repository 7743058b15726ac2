//! Tests how `slm-mesh setup` writes the settings files of agents: who can read the files afterwards, and what remains
//! if a run is killed.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::home::Home;

/// A group that no file in these tests belongs to at first.
const GROUP: u32 = 54_321;

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

/// All files below a folder, without symlinks.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Runs `setup` in a shell, after other commands.
fn setup_after(home: &Home, commands: &str, args: &[&str]) -> (bool, String) {
    run_after(home, Command::new("sh"), commands, args)
}

/// Runs `setup` in this shell, after other commands.
fn run_after(home: &Home, mut shell: Command, commands: &str, args: &[&str]) -> (bool, String) {
    let setup = home.place.command(&[&["setup"], args].concat());
    shell.args(["-c", &format!("{commands}\nexec \"$@\""), "sh"]).arg(setup.get_program()).args(setup.get_args());
    shell.env_clear().envs(setup.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let out = shell.current_dir(home.place.root.join("project")).output().unwrap();
    (out.status.success(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr))
}

#[test]
fn a_file_keeps_its_group_and_its_mode() {
    let home = Home::new();
    let file = home.write(".gemini/settings.json", "{}\n");
    if chown(&file, None, Some(GROUP)).is_err() {
        eprintln!("skipped: groups: only root can choose any group");
        return;
    }
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    for args in [&["gemini"][..], &["gemini", "--remove"]] {
        home.ok(args);
        assert_eq!((file.metadata().unwrap().gid(), mode(&file)), (GROUP, 0o640), "{args:?}");
    }
    assert_eq!(home.read(".gemini/settings.json"), "{}\n");
}

#[test]
fn a_file_keeps_its_access_control_list() {
    let home = Home::new();
    let file = home.write(".gemini/settings.json", "{}\n");
    // The owner may read and write, and user 54321 may read. If the file kept its mode but lost this list, the group
    // could read the file, but user 54321 could not.
    let rows = "[(1, 6, -1), (2, 4, 54321), (4, 0, -1), (16, 4, -1), (32, 0, -1)]";
    let list = format!(
        "import os, struct, sys; name = 'system.posix_acl_access'
rows = b'\\2\\0\\0\\0' + b''.join(struct.pack('<HHi', *row) for row in {rows})"
    );
    let python = |line: &str| {
        let script = format!("{list}\n{line}");
        Command::new("python3").args(["-c", &script]).arg(&file).stderr(Stdio::null()).status()
    };
    if !python("os.setxattr(sys.argv[1], name, rows)").is_ok_and(|status| status.success()) {
        eprintln!("skipped: lists: no python3, or the file system has no access control lists");
        return;
    }
    for args in [&["gemini"][..], &["gemini", "--remove"]] {
        home.ok(args);
        assert!(python("sys.exit(os.getxattr(sys.argv[1], name) != rows)").unwrap().success(), "{args:?}");
        assert_eq!(home.read(".gemini/settings.json").contains("slm-mesh"), args.len() == 1);
    }
}

#[test]
fn a_file_with_two_names_stays_one_file() {
    let home = Home::new();
    let file = home.write(".gemini/settings.json", "{ \"theme\": \"dark\" }\n");
    let backup = home.home.join("settings-in-my-dotfiles.json");
    fs::hard_link(&file, &backup).unwrap();
    home.ok(&["gemini"]);
    assert!(home.read(".gemini/settings.json").contains("slm-mesh"));
    assert_eq!(file.metadata().unwrap().ino(), backup.metadata().unwrap().ino());
    home.ok(&["gemini", "--remove"]);
    assert_eq!(fs::read_to_string(&backup).unwrap(), "{ \"theme\": \"dark\" }\n");
    assert_eq!(file.metadata().unwrap().ino(), backup.metadata().unwrap().ino());
}

#[test]
fn new_files_respect_the_umask() {
    let home = Home::new();
    let (is_done, said) = setup_after(&home, "umask 077", &["codex", "opencode"]);
    assert!(is_done, "{said}");
    let all = files(&home.home);
    assert!(all.len() > 3, "{all:?}");
    for file in all {
        assert_eq!(mode(&file) & 0o077, 0, "{}", file.display());
    }
    let home = Home::new();
    let (is_done, said) = setup_after(&home, "umask 000", &["codex"]);
    assert!(is_done, "{said}");
    assert_eq!(mode(&home.home.join(".codex/config.toml")), 0o644, "others must not be able to write the file");
}

#[test]
fn the_next_run_removes_what_a_killed_run_has_left() {
    let home = Home::new();
    let project = home.place.root.join("project");
    // The file is large, so that the test can kill a run while the run copies this file.
    let theirs = format!("{{\n  \"mcpServers\": {{}},\n  \"secret\": \"{}\"\n}}\n", "s".repeat(4 << 20));
    let file = project.join(".mcp.json");
    let others = || files(&project).into_iter().filter(|path| *path != file).collect::<Vec<_>>();
    let leave_a_copy = || {
        // A run may end before it is killed. Then the test undoes the run, and tries to kill the next run.
        for _ in 0..30 {
            fs::write(&file, &theirs).unwrap();
            let mut command = home.place.command(&["setup", "copilot", "--project"]);
            let mut run = command.current_dir(&project).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            while others().is_empty() && run.try_wait().unwrap().is_none() {}
            run.kill().unwrap();
            run.wait().unwrap();
            let is_left = others().iter().any(|path| path.metadata().unwrap().len() > 0);
            if is_left && fs::read_to_string(&file).unwrap() == theirs {
                return;
            }
            home.ok(&["copilot", "--remove", "--project"]);
        }
        panic!("no run could be killed in time");
    };
    leave_a_copy();
    home.ok(&["copilot", "--project"]);
    let written = |path: &PathBuf| !path.starts_with(project.join(".github"));
    assert_eq!(others().into_iter().filter(written).collect::<Vec<_>>(), [] as [PathBuf; 0], "after setup");
    home.ok(&["copilot", "--remove", "--project"]);
    leave_a_copy();
    home.ok(&["copilot", "--remove", "--project"]);
    assert_eq!(files(&project), std::slice::from_ref(&file), "after setup --remove");
    assert!(fs::read_to_string(&file).unwrap() == theirs);
}

#[test]
fn a_file_that_sudo_has_left_gets_a_cure() {
    let home = Home::new();
    let user = 12_345;
    let file = home.write(".gemini/settings.json", "{}\n");
    let folders = [&home.place.root, &home.home, &home.home.join(".gemini")];
    if folders.iter().any(|folder| chown(folder, Some(user), None).is_err()) {
        eprintln!("skipped: owners: only root can give a file away");
        return;
    }
    let mut command = home.place.command(&["setup", "gemini"]);
    // The user may be unable to reach the program, for example if it was built below root's home directory.
    let Ok(out) = command.uid(user).output() else {
        eprintln!("skipped: owners: other users can't run the program");
        return;
    };
    let said = String::from_utf8(out.stdout).unwrap();
    let cure = format!("uid 0); make it yours (sudo chown {user} {}), and run this command again", file.display());
    assert!(out.status.code() == Some(1) && said.contains(&cure), "{said}");
    chown(&file, Some(user), None).unwrap();
    let out = command.output().unwrap();
    assert!(out.status.success() && home.read(".gemini/settings.json").contains("slm-mesh"));
}

#[test]
fn a_file_that_is_a_mount_point_is_written() {
    if !Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: mounts: this user can't create a mount namespace");
        return;
    }
    let home = Home::new();
    let file = home.write(".gemini/settings.json", "{}\n");
    let real = home.write("host/settings.json", "{ \"theme\": \"dark\" }\n");
    let mount = format!("mount --bind '{}' '{}' || exit 9", real.display(), file.display());
    for args in [&["gemini"][..], &["gemini", "--remove"]] {
        let mut shell = Command::new("unshare");
        shell.args(["-rm", "sh"]);
        let (is_done, said) = run_after(&home, shell, &mount, args);
        assert!(is_done, "{said}");
        assert_eq!(home.read("host/settings.json").contains("slm-mesh"), args.len() == 1, "{said}");
    }
    assert_eq!(home.read("host/settings.json"), "{ \"theme\": \"dark\" }\n");
    assert_eq!(home.read(".gemini/settings.json"), "{}\n", "nothing was written below the mount");
}
