package claim

import "net/http"

// page is the claim by a browser.
type page struct{}

func (d *Door) pages(*http.ServeMux) {}
