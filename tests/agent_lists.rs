//! Tests the two settings that list agents. One setting lists the agents that may be woken when mail arrives for them.
//! The other setting lists the agents whose shell commands run in a sandbox (a shield). `setup` changes both lists in
//! the `config` file.

mod support;

use serde_json::json;
use support::home::Home;

#[test]
fn waking_is_asked_for_and_taken_back_without_a_trace() {
    let home = Home::new();
    home.fake("claude", "");
    let before = "{\n  \"hooks\": { \"Stop\": [ { \"hooks\": [ { \"type\": \"command\", \"command\": \"say done\" } ] } ] }\n}\n";
    home.write(".claude/settings.json", before);
    home.write(".codex/config.toml", "");
    let config = home.place.dir.join("config");
    home.place.ok(&["peers"]);
    std::fs::write(&config, "# mine\nSLM_MESH_RATE=50\n").unwrap();
    let said = home.ok(&["claude", "codex", "--wake"]);
    assert!(said.contains("Agents whose idle sessions may be woken by mail: claude, codex"), "{said}");
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "# mine\nSLM_MESH_RATE=50\nSLM_MESH_WAKE=claude,codex\n");
    let stop = home.value(".claude/settings.json")["hooks"]["Stop"].clone();
    assert_eq!(stop[0]["hooks"][0]["command"], json!("say done"), "{stop}");
    assert_eq!(stop[1]["hooks"][0]["args"], json!(["hook", "claude"]), "{stop}");
    assert_eq!(stop[2]["hooks"][0]["args"], json!(["hook", "claude", "--wake"]), "{stop}");
    assert_eq!(stop[2]["hooks"][0]["asyncRewake"], json!(true), "{stop}");
    let again = home.ok(&["claude", "codex"]);
    assert_eq!(home.value(".claude/settings.json")["hooks"]["Stop"], stop, "it stays as asked: {again}");
    home.ok(&["claude", "--no-wake"]);
    assert_eq!(home.value(".claude/settings.json")["hooks"]["Stop"].as_array().unwrap().len(), 2);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "# mine\nSLM_MESH_RATE=50\nSLM_MESH_WAKE=codex\n");
    home.ok(&["claude", "codex", "--wake"]);
    home.ok(&["claude", "codex", "--remove"]);
    assert_eq!(home.read(".claude/settings.json"), before);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "# mine\nSLM_MESH_RATE=50\n");
    let (status, said) = home.setup(&["zed", "--wake"]);
    assert!(status == 2 && said.contains("none of the chosen agents can be woken"), "{said}");
}

#[test]
fn a_list_in_the_environment_is_named_and_never_mixed_with_the_file() {
    let mut home = Home::new();
    home.fake("claude", "");
    let config = home.place.dir.join("config");
    let list = || std::fs::read_to_string(&config).unwrap_or_default();
    let note = |value: &str| format!("note: the environment contains SLM_MESH_WAKE={value}, which overrides the list");
    home.ok(&["claude", "codex", "--wake"]);
    home.place = home.place.with("SLM_MESH_WAKE", "codex");
    let said = home.ok(&["claude", "--no-wake"]);
    assert!(
        said.contains("idle sessions may be woken by mail: codex\n") && !said.contains("the environment"),
        "{said}"
    );
    assert_eq!(list(), "SLM_MESH_WAKE=codex\n");
    let said = home.ok(&["codex", "--no-wake"]);
    assert!(said.contains("idle sessions may be woken by mail: none\n") && said.contains(&note("codex")), "{said}");
    assert_eq!(list(), "");
    let said = home.ok(&["opencode", "--wake"]);
    assert!(said.contains("idle sessions may be woken by mail: opencode\n") && said.contains(&note("codex")), "{said}");
    assert_eq!(list(), "SLM_MESH_WAKE=opencode\n", "the environment's agents stay out of the file");
    let answer = home.run(&["setup", "codex", "--remove", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert!(answer["notes"][0].as_str().unwrap().contains("overrides the list"), "{answer}");
    assert!(!home.ok(&["opencode", "--remove"]).contains("the environment"));
    assert_eq!(list(), "", "the file's line goes");
    for on in ["wake", "shield"] {
        let (status, said) = home.setup(&["claude", "--remove", &format!("--{on}")]);
        assert!(status == 2 && said.contains(&format!("--{on} and --remove contradict each other")), "{said}");
    }
    assert_eq!(list(), "");
}
