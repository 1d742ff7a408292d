//! What clients need to find the server.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// A kubeconfig for the server at `url`.
pub(super) fn kubeconfig(url: &str, authority: Option<&str>) -> String {
    let authority = authority
        .map(|pem| STANDARD.encode(pem))
        .unwrap_or_default();
    let authority = match authority.as_str() {
        "" => String::new(),
        data => format!("    certificate-authority-data: {data}\n"),
    };
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: standin\n\
         \x20 cluster:\n\
         \x20   server: {url}\n\
         {authority}\
         users:\n\
         - name: anybody\n\
         \x20 user: {{token: anybody}}\n\
         contexts:\n\
         - name: standin\n\
         \x20 context: {{cluster: standin, user: anybody}}\n\
         current-context: standin\n"
    )
}
