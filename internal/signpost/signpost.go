// Package signpost serves pages of a few sentences to people who come with a browser to where
// programs are served. They have no scripts, load nothing, and are the same for everybody.
package signpost

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

//go:embed page.html
var source string

//go:embed style.css
var style string

var page = sync.OnceValue(func() *template.Template { return template.Must(template.New("page").Parse(source)) })

// Page is one page, as it is sent.
type Page struct {
	text   []byte
	policy string
}

// New makes a page of a title and what stands below it. It is for texts of the program
// itself, and panics where they make no page.
func New(title string, body template.HTML) *Page {
	var b bytes.Buffer
	if err := page().Execute(&b, struct {
		Title string
		Style template.CSS
		Body  template.HTML
	}{title, template.CSS(style), body}); err != nil {
		panic("writing page " + title + ": " + err.Error())
	}
	sum := sha256.Sum256([]byte(style))
	return &Page{text: b.Bytes(), policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}
}

// ServeHTTP answers a GET or a HEAD; who may ask so, and with what else, the caller has looked at.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(p.text)))
	h.Set("Content-Security-Policy", p.policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if r.Method != http.MethodHead {
		_, _ = w.Write(p.text) // whoever hung up asks again
	}
}

// Reads says whether a request reads, and does not send.
func Reads(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// Wanted says whether a request asks for a page by name, as browsers do, and not for
// whatever there is.
func Wanted(r *http.Request) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		kind, params, err := mime.ParseMediaType(part)
		if err != nil || kind != "text/html" {
			continue
		}
		q, err := strconv.ParseFloat(params["q"], 64)
		if params["q"] == "" || err == nil && q > 0 {
			return true
		}
	}
	return false
}
