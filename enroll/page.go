package enroll

import (
	"net/http"
	"sync"

	"lazaret/internal/signpost"
)

// linked is where the links lead that carry a one-time password; it stands behind the #, and
// is not sent (RFC 9110, section 4.2.5).
const linked = "/enroll"

// forPeople is what somebody sees who comes with a browser.
var forPeople = sync.OnceValue(func() *signpost.Page {
	return signpost.New("Enroll a device", `<p>Devices enroll at this Lazaret gateway, by a program on the device; this page only says how.</p>
<p>If you were sent a link: on the device that is to be enrolled, run</p>
<pre>lazaret enroll</pre>
<p>and paste the whole link, with what stands behind the #, where it asks for the one-time password. That part is secret, works once, and was not sent to this page.</p>
<p>Standard CMP clients (RFC 9810, RFC 9811) use POST to <code>`+Path+`</code>.</p>`)
})

// isForPeople says whether somebody looks where no program does.
func isForPeople(r *http.Request) bool {
	return signpost.Reads(r) && (r.URL.Path == "/" || r.URL.Path == linked)
}
