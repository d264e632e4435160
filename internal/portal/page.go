package portal

import (
	"bytes"
	"html/template"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	texttemplate "text/template"
	"time"
	"unicode"

	_ "embed"

	"lazaret/quarantine"
)

//go:embed page.html
var htmlSource string

//go:embed page.txt
var textSource string

var (
	htmlPage = sync.OnceValue(func() *template.Template { return template.Must(template.New("page").Parse(htmlSource)) })
	textPage = sync.OnceValue(func() *texttemplate.Template {
		return texttemplate.Must(texttemplate.New("page").Parse(textSource))
	})
)

// words is what the page says.
type words struct {
	Title   string
	Meaning string
	Name    string
	ID      string
	Since   string
	Until   string // empty: no end
	Heading string // of Against
	Against []string
	For     []string
	Todo    []string
	Help    string
}

func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	if !s.ours(r.Host) {
		http.Error(w, "no such site here", http.StatusMisdirectedRequest)
		return
	}
	d, ok := s.find(w, r)
	if !ok {
		return
	}
	var body bytes.Buffer
	kind, err := "text/html; charset=utf-8", error(nil)
	if wantsText(r.Header.Values("Accept")) {
		kind = "text/plain; charset=utf-8"
		err = textPage().Execute(&body, s.words(d))
	} else {
		err = htmlPage().Execute(&body, s.words(d))
	}
	if err != nil {
		s.cfg.Log.Error("writing the page", "device", d.ID, "error", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Vary", "Accept")
	_, _ = w.Write(body.Bytes()) // whoever hung up asks again
}

// wantsText reports whether plain text is named, and not liked less than HTML.
func wantsText(accept []string) bool {
	var text, html float64
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		kind, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		q, err := strconv.ParseFloat(params["q"], 64)
		if err != nil || q < 0 || q > 1 {
			q = 1
		}
		switch kind {
		case "text/plain":
			text = q
		case "text/html":
			html = q
		}
	}
	return text > 0 && text > html
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

func (s *Server) words(d quarantine.Record) words {
	p := words{
		Title: "This device is in quarantine", Heading: "What keeps it there", Name: clean(d.Name), ID: string(d.ID), Since: stamp(d.Since), Help: s.cfg.Help,
		Meaning: "It reaches the servers that manage it, and nothing else, until it is reported to be in order.",
	}
	if d.Stage == quarantine.Routed {
		p.Title, p.Heading = "This device has full access", "What did not count"
		p.Meaning = "It reaches what its network offers."
		if !d.Until.IsZero() {
			p.Until = stamp(d.Until)
		}
	}
	var rules []string
	for _, r := range d.Reasons {
		if r.Holds {
			p.For = append(p.For, clean(r.Text))
			continue
		}
		p.Against = append(p.Against, clean(r.Text))
		rules = append(rules, r.Rule)
	}
	if d.Stage == quarantine.Routed {
		p.Todo = []string{"Nothing. Access is prolonged by itself while the device is reported to be in order."}
		return p
	}
	for _, rule := range rules {
		if todo := advice(rule); todo != "" && !slices.Contains(p.Todo, todo) {
			p.Todo = append(p.Todo, todo)
		}
	}
	if len(p.Todo) == 0 {
		p.Todo = []string{"Wait a moment, and load this page again."}
	}
	return p
}

// advice is what a person can do about a rule that does not hold.
func advice(rule string) string {
	switch rule {
	case quarantine.RuleHold:
		return "An administrator keeps this device in quarantine. Ask why, and what would end it."
	case quarantine.RuleCertificate:
		return "Start the Lazaret agent, so that it can renew its certificate; if that has run out, ask for a new one-time password and enroll again."
	case quarantine.RuleProof:
		return "Start the Lazaret agent and leave it running: it shows by itself that this device holds its key."
	case quarantine.RuleReport, quarantine.RuleSkip, "release":
		return "Let your device management finish: install its updates, switch on what it asks for, and let it check in. Access comes by itself once it reports this device to be in order."
	case quarantine.RuleProfile, quarantine.RulePool, quarantine.RuleFacts, "policy":
		return "Something is set up wrongly on the gateway. Tell your administrator what stands on this page."
	}
	return ""
}

// clean leaves out what a terminal would obey.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, s)
}
