//! Federation: links to other meshes, the peers of those meshes, and the messages between meshes. A linked mesh belongs
//! to another slm-mesh broker, or to a daemon of SuperLocalMemory (a different program with a mesh of its own).
//!
//! **Invariant:** only this module writes the links.

pub mod handle_forwarding_answer;
pub mod operations_for_linked_meshes;
pub mod outbox_to_linked_meshes;
pub mod receipts;
pub mod roster;

use crate::base::id_types::{MeshUrl, PeerId};
use crate::base::limits;
use crate::store::PeerRow;
use handle_forwarding_answer::DoubtfulMessage;
use receipts::AwaitedReceipts;

/// A linked mesh, which this mesh polls.
#[derive(Debug, Default)]
pub struct MeshLink {
    /// The address of the linked mesh, as the user wrote it.
    pub url: MeshUrl,
    /// The id of the linked mesh; `None` for a SuperLocalMemory daemon.
    pub mesh_id: Option<String>,
    /// When the linked mesh last answered, in ms.
    pub last_answer: Option<i64>,
    /// What is wrong with the link; `None` if the link works. Possible problems: the last poll or the last delivery of
    /// a message failed, or the address leads back to this broker.
    pub trouble: Option<String>,
    /// Those peers of the linked mesh that read only messages to their whole project.
    broadcast_only: Vec<PeerId>,
    /// The oldest waiting message, if the linked mesh neither accepts nor refuses it.
    doubtful: Option<DoubtfulMessage>,
    /// Messages that the linked mesh has accepted, and whose receipts may still change.
    awaited: AwaitedReceipts,
    /// How many messages the linked mesh has refused since this broker started.
    n_rejected: u64,
    /// The reason why the linked mesh last refused a message.
    last_rejection: Option<String>,
}

impl MeshLink {
    /// Whether the linked mesh is a SuperLocalMemory daemon. Returns false until the linked mesh first answers.
    fn is_superlocalmemory(&self) -> bool {
        self.last_answer.is_some() && self.mesh_id.is_none()
    }
}

/// The links to other meshes.
#[derive(Debug, Default)]
pub struct Federation {
    links: Vec<MeshLink>,
    /// When this mesh began to poll, in ms.
    started: i64,
    /// Whether there may be messages to forward.
    may_forward: bool,
}

impl Federation {
    pub(super) fn new(urls: &[String], now: i64) -> Federation {
        let link = |url: &String| MeshLink { url: url.as_str().into(), ..MeshLink::default() };
        Federation { links: urls.iter().map(link).collect(), started: now, may_forward: true }
    }

    /// The links, in the order in which the settings list them.
    pub fn links(&self) -> &[MeshLink] {
        &self.links
    }

    /// Returns the link to a mesh. Returns `None` if the settings no longer list this mesh.
    fn link_to(&self, url: &MeshUrl) -> Option<&MeshLink> {
        self.links.iter().find(|link| link.url == *url)
    }

    /// Whether there is a link to the mesh of this peer.
    fn reaches(&self, row: &PeerRow) -> bool {
        row.mesh().is_some_and(|mesh| self.link_to(mesh).is_some())
    }

    /// Returns the time, in ms, at which this link will count as silent if the linked mesh does not answer before.
    fn silent_at(&self, link: &MeshLink) -> i64 {
        link.last_answer.unwrap_or(self.started) + limits::LINK_SILENT_MS
    }
}
