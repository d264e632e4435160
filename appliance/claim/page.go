package claim

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"html/template"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

//go:embed page.html
var pageSource string

//go:embed style.css
var pageStyle string

var pageTemplate = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("page").Parse(strings.Replace(pageSource, "/* style.css */", pageStyle, 1)))
})

// styleHash allows the pages' own style, and no other. It stands in them, as the last page is
// shown by a server that is about to end.
var styleHash = sync.OnceValue(func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
})

const (
	maxForm    = 64 << 10        // bytes
	startAfter = 5 * time.Minute // downloading, the gateway starts by itself
)

// page is the claim by a browser: the door is the claimant, for whoever types the code.
type page struct {
	spawn func(func(context.Context)) // runs something as long as the door does

	mu     sync.Mutex // guards what follows
	visits []*visit   // the newest last
}

// view is what a page shows.
type view struct {
	Title       string
	Refresh     bool // by itself, in some seconds
	Version     string
	Only        bool // the gateway is there, and gets an administrator
	Fingerprint string
	Form        *form
	Steps       []string
	Answer      *Answer
	Taken       bool
	Missing     bool // started without a download
	Started     bool
	File        string
}

func (d *Door) pages(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", d.showForm)
	mux.HandleFunc("POST /{$}", d.takeForm)
	mux.HandleFunc("GET /progress", d.showProgress)
	mux.HandleFunc("GET /result", d.showResult)
	mux.HandleFunc("POST /credential", d.download)
	mux.HandleFunc("POST /start", d.start)
}

func (d *Door) show(w http.ResponseWriter, status int, v view) {
	v.Version, v.Fingerprint, v.File, v.Only = d.about.Version, d.fingerprint, CredentialName, d.about.Administrator
	if title, ok := onlyTitles[v.Title]; ok && v.Only {
		v.Title = title
	}
	var b bytes.Buffer
	if err := pageTemplate().Execute(&b, v); err != nil {
		d.cfg.Log.Error("writing a page", "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // whoever hung up asks again
}

func peer(r *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

const (
	formTitle     = "Claim this gateway"
	progressTitle = "Making the gateway"
	resultTitle   = "The gateway is made"
	startedTitle  = "The gateway starts"
)

// onlyTitles are those of the same pages where a gateway gets a new administrator.
var onlyTitles = map[string]string{
	formTitle: "Make a new administrator", progressTitle: "Making the administrator", resultTitle: "The administrator is made", startedTitle: "The gateway goes on",
}

func (d *Door) showForm(w http.ResponseWriter, r *http.Request) {
	if d.visitOf(r) != nil {
		http.Redirect(w, r, "/progress", http.StatusSeeOther)
		return
	}
	d.show(w, http.StatusOK, view{Title: formTitle, Form: newForm(d.about, d.clock(r.Context()), peer(r))})
}

// takeForm shows the form again with everything that is wrong, or begins the claim.
func (d *Door) takeForm(w http.ResponseWriter, r *http.Request) {
	f := newForm(d.about, d.clock(r.Context()), peer(r))
	again := func(status int) { d.show(w, status, view{Title: formTitle, Form: f}) }
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		f.fault("", "more was sent than a form can hold")
		again(http.StatusBadRequest)
		return
	}
	f.take(r.PostForm)
	if !d.permit(r) {
		f.fault("", "%s", errBusy.What)
		again(http.StatusTooManyRequests)
		return
	}
	code, setup := f.setup(d.about.Setup.Network)
	if f.bad() {
		again(http.StatusUnprocessableEntity)
		return
	}
	v, err := d.visit(r.Context(), code, setup, r.Host, f)
	if err != nil {
		if refusal, ok := errors.AsType[*Refusal](err); ok && refusal.Kind == Wrong {
			f.fault(entryCode, "this is not the code on the machine's screen")
		} else if ok {
			f.refused(refusal)
		} else {
			d.cfg.Log.Error("beginning a claim", "err", err)
			f.fault("", "the machine failed at it; its screen says more")
		}
		again(http.StatusUnprocessableEntity)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: v.cookie, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	http.Redirect(w, r, "/progress", http.StatusSeeOther)
}

func (f *form) refused(r *Refusal) {
	if len(r.Faults) == 0 {
		f.fault("", "%s", r.What)
	}
	for _, x := range r.Faults {
		f.fault(x.Field, "%s", x.What)
	}
}

// showProgress asks the browser to look again until the gateway is made. A refusal brings the
// form back as it was filled in.
func (d *Door) showProgress(w http.ResponseWriter, r *http.Request) {
	v := d.visitOf(r)
	if v == nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	v.mu.Lock()
	over, refusal, steps := v.over, v.refusal, slices.Clone(v.steps)
	v.mu.Unlock()
	switch {
	case refusal != nil:
		d.forget(v)
		v.form.refused(refusal)
		d.show(w, http.StatusUnprocessableEntity, view{Title: formTitle, Form: v.form})
	case over:
		http.Redirect(w, r, "/result", http.StatusSeeOther)
	default:
		d.show(w, http.StatusOK, view{Title: progressTitle, Refresh: true, Steps: steps})
	}
}

// finished finds a browser's visit if its gateway is made; else it sends the browser on.
func (d *Door) finished(w http.ResponseWriter, r *http.Request) *visit {
	v := d.visitOf(r)
	if v != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.over && v.refusal == nil {
			return v
		}
	}
	http.Redirect(w, r, "/progress", http.StatusSeeOther)
	return nil
}

func (d *Door) showResult(w http.ResponseWriter, r *http.Request) {
	if v := d.finished(w, r); v != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		d.show(w, http.StatusOK, view{Title: resultTitle, Answer: &v.answer, Taken: v.taken})
	}
}

// download hands the credential over. From then on the gateway starts by itself after a
// while: a person who has the file and closes the page has a gateway.
func (d *Door) download(w http.ResponseWriter, r *http.Request) {
	v := d.finished(w, r)
	if v == nil {
		return
	}
	w.Header().Set("Content-Type", "application/x-pem-file")
	w.Header().Set("Content-Disposition", `attachment; filename="`+CredentialName+`"`)
	if _, err := w.Write(v.credential); err != nil {
		return
	}
	v.mu.Lock()
	first := !v.taken
	v.taken = true
	v.mu.Unlock()
	if first {
		d.page.spawn(func(ctx context.Context) {
			select {
			case <-ctx.Done():
			case <-d.over:
			case <-time.After(startAfter):
				if err := d.keep(ctx, v); err != nil {
					d.cfg.Log.Error("starting the gateway", "err", err)
					return
				}
				d.end()
			}
		})
	}
}

// start ends the claim, once the credential was downloaded.
func (d *Door) start(w http.ResponseWriter, r *http.Request) {
	v := d.finished(w, r)
	if v == nil {
		return
	}
	v.mu.Lock()
	taken, answer := v.taken, v.answer
	v.mu.Unlock()
	if !taken {
		d.show(w, http.StatusConflict, view{Title: resultTitle, Answer: &answer, Missing: true})
		return
	}
	if err := d.keep(r.Context(), v); err != nil {
		d.cfg.Log.Error("starting the gateway", "err", err)
		http.Error(w, "the machine failed to start the gateway; its screen says more", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Connection", "close")
	d.show(w, http.StatusOK, view{Title: startedTitle, Answer: &answer, Started: true})
	d.end()
}
