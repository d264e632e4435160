package claim

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"lazaret/appliance"
)

//go:embed page.html
var pageSource string

//go:embed style.css
var pageStyle []byte

var pageTemplate = template.Must(template.New("page").Parse(pageSource))

const (
	cookieName = "__Host-claim"
	maxForm    = 64 << 10        // bytes
	maxVisits  = 8               // of people who have shown the code
	startAfter = 5 * time.Minute // downloading, the gateway starts by itself
)

// page is the claim by a browser: the door is the claimant, for whoever types the code.
type page struct {
	spawn func(func(context.Context)) // runs something as long as the door does

	mu     sync.Mutex // guards what follows
	visits []*visit   // the newest last
}

// visit is one claim by a browser. Whoever shows the code with the same set-up again gets
// the same visit.
type visit struct {
	cookie  string
	setup   [sha256.Size]byte // of the form's meaning
	code    Code
	key     *ecdsa.PrivateKey
	request []byte
	form    *form

	mu         sync.Mutex // guards what follows
	exchange   Exchange
	steps      []string
	over       bool // of the making
	credential []byte
	answer     Answer
	refusal    *Refusal
	taken      bool // the credential was downloaded
}

// view is what a page shows.
type view struct {
	Title       string
	Refresh     bool // by itself, in some seconds
	Version     string
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
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		_, _ = w.Write(pageStyle)
	})
}

func (d *Door) show(w http.ResponseWriter, status int, v view) {
	v.Version, v.Fingerprint, v.File = d.about.Version, d.fingerprint, CredentialName
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, v); err != nil {
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

const formTitle = "Claim this gateway"

func (d *Door) showForm(w http.ResponseWriter, r *http.Request) {
	if d.visitOf(r) != nil {
		http.Redirect(w, r, "/progress", http.StatusSeeOther)
		return
	}
	d.show(w, http.StatusOK, view{Title: formTitle, Form: newForm(d.about, peer(r))})
}

// takeForm shows the form again with everything that is wrong, or begins the claim.
func (d *Door) takeForm(w http.ResponseWriter, r *http.Request) {
	f := newForm(d.about, peer(r))
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

// visit begins a claim for whoever has shown the code, or finds the one that the same form
// began.
func (d *Door) visit(ctx context.Context, code Code, setup appliance.Setup, host string, f *form) (*visit, error) {
	text, err := json.Marshal(setup)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the administrator's key: %w", err)
	}
	request, err := NewRequest(Request{Setup: setup, APINames: hostNames(host)}, key)
	if err != nil {
		return nil, err
	}
	x, err := d.begin(ctx, code, request)
	if err != nil {
		return nil, err
	}
	d.page.mu.Lock()
	defer d.page.mu.Unlock()
	same := sha256.Sum256(text)
	for _, v := range d.page.visits {
		if v.setup == same && v.stands() {
			return v, nil
		}
	}
	var b [32]byte
	rand.Read(b[:])
	v := &visit{cookie: hex.EncodeToString(b[:]), setup: same, code: code, key: key, request: request, form: f, exchange: x}
	if d.page.visits = append(d.page.visits, v); len(d.page.visits) > maxVisits {
		d.page.visits = slices.Delete(d.page.visits, 0, 1)
	}
	d.page.spawn(func(ctx context.Context) { d.carryOut(ctx, v) })
	return v, nil
}

// hostNames is how the browser reached the machine, for the API's certificate.
func hostNames(host string) []string {
	if at, err := netip.ParseAddrPort(host); err == nil {
		return []string{at.Addr().String()}
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []string{a.String()}
	}
	name, _, _ := cutPort(host)
	if appliance.IsDNSName(name) {
		return []string{name}
	}
	return nil
}

// begin does the claimant's part with the keeper, and learns whether the code is right. There
// is no connection between the two that somebody could sit in; a random value names it.
func (d *Door) begin(ctx context.Context, code Code, request []byte) (Exchange, error) {
	sum := sha256.Sum256(request)
	x := Exchange{Exporter: make(Sum, sumLength), Claimant: make(Sum, sumLength), Request: sum[:]}
	rand.Read(x.Exporter)
	rand.Read(x.Claimant)
	r, err := d.ask(ctx, call{Kind: callOpen, Exchange: &x}, nil)
	if err != nil {
		return x, err
	}
	x.Machine = r.Machine
	if !proves(code, labelMachine, x, nil, r.Proof) {
		return x, &Refusal{Kind: Wrong, What: "wrong code"}
	}
	return x, nil
}

// carryOut has the gateway made.
func (d *Door) carryOut(ctx context.Context, v *visit) {
	err := func() error {
		proof, err := prove(v.code, labelClaimant, v.exchange, nil)
		if err != nil {
			return err
		}
		r, err := d.ask(ctx, call{Kind: callClaim, Exchange: &v.exchange, Request: v.request, Proof: proof}, func(step string) {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.steps = append(v.steps, step)
		})
		if err != nil {
			return err
		}
		var a Answer
		if err := strict(r.Answer, &a); err != nil {
			return err
		}
		c, err := CredentialOf(a, v.key)
		if err != nil {
			return err
		}
		file, err := c.File()
		v.mu.Lock()
		defer v.mu.Unlock()
		v.credential, v.answer = file, a
		return err
	}()
	refusal, ok := errors.AsType[*Refusal](err)
	if err != nil && !ok {
		d.cfg.Log.Error("claiming", "err", err)
		refusal = &Refusal{Kind: Broken, What: "the machine failed at it; its screen says more"}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over, v.refusal = true, refusal
}

// stands says whether the visit may still lead, or has led, to an answer.
func (v *visit) stands() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.refusal == nil
}

// visitOf finds a browser's visit by its cookie.
func (d *Door) visitOf(r *http.Request) *visit {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return nil
	}
	d.page.mu.Lock()
	defer d.page.mu.Unlock()
	for _, v := range d.page.visits {
		if subtle.ConstantTimeCompare([]byte(v.cookie), []byte(c.Value)) == 1 {
			return v
		}
	}
	return nil
}

// forget ends a visit.
func (d *Door) forget(v *visit) {
	d.page.mu.Lock()
	defer d.page.mu.Unlock()
	d.page.visits = slices.DeleteFunc(d.page.visits, func(o *visit) bool { return o == v })
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
		d.show(w, http.StatusOK, view{Title: "Making the gateway", Refresh: true, Steps: steps})
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

const resultTitle = "The gateway is made"

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

// keep says that the claimant holds the answer.
func (d *Door) keep(ctx context.Context, v *visit) error {
	proof, err := prove(v.code, labelKept, v.exchange, nil)
	if err != nil {
		return err
	}
	_, err = d.ask(ctx, call{Kind: callKept, Exchange: &v.exchange, Proof: proof}, nil)
	return err
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
	d.show(w, http.StatusOK, view{Title: "The gateway starts", Answer: &answer, Started: true})
	d.end()
}
