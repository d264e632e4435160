package enroll

import "net/http"

// Path is where CMP is served (RFC 9811, section 3.4).
const Path = "/.well-known/cmp"

// Listener is what differs between listeners.
type Listener struct {
	Exporter bool // compare the device's TLS exporter with this connection's; not behind a TLS-terminating proxy
}

// Handler serves CMP on one listener.
func (d *Desk) Handler(l Listener) http.Handler { return nil }

// ServeHTTP serves CMP on a listener as Config.Exporter says.
func (d *Desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {}
