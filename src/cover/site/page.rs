//! The pages that nginx has for what is not a file, to the byte.

use bytes::Bytes;

use super::content::Content;
use super::fault::Fault;
use super::message::{Fields, Head, Own, Reply, reason};

/// The page that goes with a status.
pub(super) fn page(status: u16, fields: &Fields) -> Reply {
    with_text(status, text(status, None, pads(fields)))
}

/// The page that goes with a request that cannot be read.
pub(super) fn refusal(fault: Fault, fields: &Fields) -> Reply {
    let more = (fault == Fault::LongHeader).then_some("Request Header Or Cookie Too Large");
    let text = text(fault.status(), more, pads(fields));
    Reply { last: true, ..with_text(fault.status(), text) }
}

/// An answer with HTML.
pub(super) fn with_text(status: u16, text: String) -> Reply {
    let own = Own { kind: Some("text/html".into()), length: Some(text.len() as u64), ..Own::default() };
    let last = matches!(status, 400 | 413 | 414 | 500 | 501);
    let content = Content::bytes(Bytes::from(text));
    Reply { status, line: None, head: Head::Own(Box::new(own)), content, last }
}

fn text(status: u16, more: Option<&str>, pads: bool) -> String {
    let reason = reason(status);
    let title = more.unwrap_or(reason);
    let mut text = format!(
        "<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>\r\n<center><h1>{status} {reason}</h1></center>\r\n"
    );
    if let Some(more) = more {
        text += &format!("<center>{more}</center>\r\n");
    }
    text += "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n";
    if pads && status >= 400 {
        text += &"<!-- a padding to disable MSIE and Chrome friendly error page -->\r\n".repeat(6);
    }
    text
}

/// Whether the browser would show a page of its own in place of a short one.
fn pads(fields: &Fields) -> bool {
    let Some(agent) = fields.text("user-agent") else { return false };
    if agent.contains("Opera") {
        return false;
    }
    agent.contains("MSIE ") || (agent.contains("Chrome/") && !agent.contains("Gecko/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_those_of_nginx() {
        let plain = "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>\r\n<center><h1>404 Not Found</h1></center>\r\n\
                     <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n";
        assert_eq!(text(404, None, false), plain);
        assert_eq!(plain.len(), 146);
        let padded = text(404, None, true);
        assert!(padded.starts_with(plain));
        assert_eq!(padded.matches("<!-- a padding").count(), 6);
        assert_eq!(text(301, None, true).len(), 162);
    }
}
