//! The settings that list agents: which agents mail may wake, and which agents run shell commands in a shield. `setup`
//! changes these lists in the `config` file.

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
    assert!(said.contains("Mail may wake idle sessions of: claude, codex"), "{said}");
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
    assert!(status == 2 && said.contains("none of these agents can be woken"), "{said}");
}
