//! Checks the hubs of a guest, which is a machine that uses hubs on other machines. Asks each hub in the guest's
//! settings whether it leads, and requests a trial lock from the leading hub. Also looks for a broker that is still
//! running on the guest itself.

use super::{Check, check_lock};
use crate::base::error::{Error, ErrorKind, problem_and_cure};
use crate::base::untrusted_text::line;
use crate::client::check_hub_has_joined_mesh::has_another_log;
use crate::client::connect_to_leading_hub::HubGroup;
use crate::client::route_to_broker::{HubAnswer, HubRole, RemoteTarget};
use crate::client::{Client, discovered_hub};
use crate::sys::data_dir::DataDir;

/// Checks all hubs at the same time. A hub that does not answer is a fault even if another hub leads, because a silent
/// hub can't take over.
pub fn check_hubs_of_guest(target: &RemoteTarget, places: &DataDir) -> Vec<Check> {
    let answers = target.ask_each();
    let other_meshes: Vec<Option<Error>> = match target.group().has_several_hubs() {
        true => errors_of_other_meshes(&answers, target.group()),
        false => answers.iter().map(|_| None).collect(),
    };
    let leaders: Vec<&HubAnswer> = answers.iter().filter(|one| leads(one)).collect();
    let has_leader = answers.iter().zip(&other_meshes).any(|(one, other_mesh)| leads(one) && other_mesh.is_none());
    let check = |(one, other_mesh): (&HubAnswer, &Option<Error>)| match other_mesh {
        Some(error) => {
            let (found, cure) = problem_and_cure(&error.text);
            Check::error(&about(one), found, cure.unwrap_or_default())
        }
        None => check_hub(one, has_leader),
    };
    let mut checks: Vec<Check> = answers.iter().zip(&other_meshes).map(check).collect();
    if leaders.len() > 1 {
        let names: Vec<String> = leaders.iter().map(|one| one.hub.to_string()).collect();
        let found = format!("several hubs say that they lead: {}", names.join(", "));
        let cure = "set the same SLM_MESH_STORE on all hubs, or make sure that all hubs in SLM_MESH_HOST share a mesh";
        checks.push(Check::error("leader", found, cure));
    }
    // Even if none of these hubs leads, a standby may know a leader that is missing from the settings. In that case,
    // the trial lock is requested from that leader.
    let names_one = |one: &HubAnswer| matches!(one.role, Ok(HubRole::StandsBy { leader: Some(_), .. }));
    if has_leader || answers.iter().any(names_one) {
        checks.push(match Client::connect_to_running(places) {
            Ok(mut client) => check_lock(&mut client, places),
            Err(error) => Check::error("leader", error.text, "run slm-mesh doctor on the hubs"),
        });
    } else if answers.iter().any(|one| one.role.is_ok()) {
        let found = "no hub is the leader at the moment";
        checks.push(Check::error("leader", found, "run slm-mesh status on one of the hubs"));
    }
    if let Some(warning) = discovered_hub::own_broker_warning(places) {
        let (found, cure) = problem_and_cure(&warning);
        checks.push(Check::error("own broker", found, cure.unwrap_or("run slm-mesh stop")));
    }
    checks
}

fn leads(one: &HubAnswer) -> bool {
    matches!(one.role, Ok(HubRole::Leads { .. }))
}

fn about(one: &HubAnswer) -> String {
    one.hub.hub().map_or_else(|| one.hub.to_string(), |hub| format!("hub {hub}"))
}

/// Finds the hubs whose mesh is not the mesh of this guest. Returns an error for each of them. If this guest has not
/// joined a log yet, its mesh is the mesh of the first hub that leads.
fn errors_of_other_meshes(answers: &[HubAnswer], group: &HubGroup) -> Vec<Option<Error>> {
    let error_of = |one: &HubAnswer, expected| match &one.role {
        Ok(HubRole::Leads { mesh, .. }) => mesh.check(&one.hub, expected, group.places()).err(),
        // If a standby reports trouble, this function returns no error for it, because the report says more than such
        // an error.
        Ok(HubRole::StandsBy { log: Some(log), trouble: None, .. }) if expected.is_some_and(|own| own != *log) => {
            Some(has_another_log(&one.hub, group.places()))
        }
        Ok(HubRole::StandsBy { .. }) | Err(_) => None,
    };
    let joined = group.joined_log();
    // The leader's log may continue the log that this guest has joined.
    let log_of_leader = |one: &HubAnswer| match &one.role {
        Ok(HubRole::Leads { mesh, .. }) if error_of(one, joined).is_none() => mesh.log(),
        _ => None,
    };
    let expected = answers.iter().find_map(log_of_leader).or(joined);
    answers.iter().map(|one| error_of(one, expected)).collect()
}

fn check_hub(one: &HubAnswer, has_leader: bool) -> Check {
    let about = about(one);
    let took = one.took.as_millis();
    match &one.role {
        Ok(HubRole::Leads { version, .. }) if version == env!("CARGO_PKG_VERSION") => {
            Check::well(&about, format!("answers in {took} ms; version {version}"))
        }
        Ok(HubRole::Leads { version, .. }) => {
            let found = format!(
                "answers in {took} ms; it runs version {version}, but this program is version {}",
                env!("CARGO_PKG_VERSION")
            );
            Check::error(&about, found, "install the same version on both machines")
        }
        Ok(HubRole::StandsBy { leader, trouble, .. }) => {
            let found = match leader {
                Some(leader) => format!("answers in {took} ms; it is a standby, and {leader} is the leader"),
                None => format!("answers in {took} ms; it is a standby that does not know the leader"),
            };
            let Some(trouble) = trouble else { return Check::well(&about, found) };
            let (why, cure) = problem_and_cure(trouble);
            let cure = cure.unwrap_or("run slm-mesh doctor on this hub");
            Check::error(
                &about,
                format!("{found}; it can't take over: {}", line(why)),
                format!("on this hub: {}", line(cure)),
            )
        }
        Err(error) => {
            let (found, cure) = problem_and_cure(&error.text);
            let cure = cure.unwrap_or("start the broker there");
            let cure = match error.kind {
                ErrorKind::Gone if has_leader => format!("{cure}; until then, another hub is the leader"),
                _ => cure.to_owned(),
            };
            Check::error(&about, found, cure)
        }
    }
}
