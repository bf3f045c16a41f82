//! From a request to its answer, whatever the site serves.

use std::sync::Arc;

use bytes::Bytes;

use super::acme::Challenges;
use super::bodies::{Bodies, Body};
use super::error::SiteError;
use super::extension::SiteVisitor;
use super::fault::Fault;
use super::files::Folder;
use super::message::{Fields, Head, Reply, Request, Upload};
use super::upstream::Upstream;
use super::{date, page, redirect};

/// Source of answers.
pub(super) enum Source {
    Folder(Folder),
    Upstream(Box<Upstream>),
    Redirect(Arc<Challenges>),
}

/// Answers requests.
pub(super) struct Handler {
    source: Source,
    server: Option<String>,
    bodies: Bodies,
    /// Bodies that an extension takes. They cost no upstream a connection, and those of its clients must not be what makes
    /// uploads to the site be hurried.
    taken: Bodies,
}

impl Handler {
    pub(super) fn new(source: Source, server: Option<String>) -> Handler {
        Handler { source, server, bodies: Bodies::default(), taken: Bodies::default() }
    }

    /// The answer to one request. Only an upstream reads the body.
    pub(super) async fn answer(&self, request: &Request, upload: Upload, guest: &SiteVisitor) -> Reply {
        if !self.passes_on() && request.length.is_some_and(|length| length > LONGEST_BODY) {
            return Reply { last: true, ..page::page(413, &request.fields) };
        }
        match &self.source {
            Source::Folder(folder) => folder.answer(request).await,
            Source::Upstream(upstream) => upstream.answer(request, upload, guest.told()).await,
            Source::Redirect(challenges) => redirect::answer(request, challenges),
        }
    }

    /// The answer to what cannot be read.
    pub(super) async fn refuse(&self, fault: Fault) -> Reply {
        match &self.source {
            Source::Upstream(upstream) => upstream.refuse(fault).await,
            _ => page::refusal(fault, &Fields::default()),
        }
    }

    /// Counts a body that is to be read to its end.
    pub(super) fn body(&self) -> Body<'_> {
        self.bodies.open()
    }

    /// Counts a body that an extension takes.
    pub(super) fn taken_body(&self) -> Body<'_> {
        self.taken.open()
    }

    /// Whether requests go to another server, which gets their bodies and learns that a client has left.
    pub(super) fn passes_on(&self) -> bool {
        matches!(self.source, Source::Upstream(_))
    }

    /// The header of an answer as it goes out. `framing` is what is to be said about the body and the connection.
    pub(super) fn fields(&self, head: Head, framing: &[(&'static str, &'static str)]) -> Fields {
        match head {
            Head::Own(own) => own.fields(self.server.as_deref().unwrap_or("nginx"), date::now(), framing),
            Head::Exact(fields) => framed(fields, framing),
            Head::Theirs(mut fields) => {
                if let Some(server) = &self.server {
                    let value = Bytes::from(server.clone());
                    match fields.0.iter_mut().find(|(name, _)| name.eq_ignore_ascii_case(b"server")) {
                        Some(field) => field.1 = value,
                        None => fields.0.insert(0, ("Server".into(), value)),
                    }
                }
                framed(fields, framing)
            }
        }
    }
}

/// Says what is to be said about the connection where the other server said it, or at the end.
fn framed(mut fields: Fields, framing: &[(&'static str, &'static str)]) -> Fields {
    if !framing.iter().any(|(name, _)| *name == "Transfer-Encoding") {
        fields.0.retain(|(name, _)| !name.eq_ignore_ascii_case(b"transfer-encoding"));
    }
    for (name, value) in framing {
        let there = fields.0.iter_mut().find(|(theirs, _)| theirs.eq_ignore_ascii_case(name.as_bytes()));
        match there {
            Some(field) => field.1 = Bytes::from_static(value.as_bytes()),
            // That a connection stays open is said only by servers that say it.
            None if *value == "keep-alive" => {}
            None => fields.push(*name, *value),
        }
    }
    fields
}

/// Checks the configured `Server` header.
pub(super) fn server_header(value: &str) -> Result<String, SiteError> {
    let printable = |byte: u8| (0x20..0x7f).contains(&byte);
    match !value.is_empty() && value.bytes().all(printable) {
        true => Ok(value.to_owned()),
        false => Err(SiteError::BadServerHeader),
    }
}

/// As much as nginx takes of a body that no one asked for.
const LONGEST_BODY: u64 = 1 << 20;
