package console

import (
	"sync"

	"lazaret/internal/signpost"
)

// forPeople is what somebody sees who comes to the API with a browser.
var forPeople = sync.OnceValue(func() *signpost.Page {
	return signpost.New("Administration by lazaretctl", `<p>This is the API of a Lazaret gateway, for programs; a person administers the gateway with <code>lazaretctl</code>.</p>
<p>With a credential that you have as a file:</p>
<pre>lazaretctl connect FILE</pre>
<p>Without one, with the code that the machine shows on its screen while it is unclaimed, or after somebody asked there for a new administrator:</p>
<pre>lazaretctl claim HOST</pre>
<p>The API is described at <a href="/api/v1/openapi.json"><code>/api/v1/openapi.json</code></a>.</p>`)
})
