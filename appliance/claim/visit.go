package claim

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"lazaret/appliance"
	written "lazaret/internal/form"
)

const (
	cookieName = "__Host-claim"
	maxVisits  = 8 // of people who have shown the code
)

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
	q := Request{Setup: setup, AdministratorOnly: d.about.Administrator}
	if !q.AdministratorOnly {
		q.APINames = hostNames(host)
	}
	request, err := NewRequest(q, key)
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
	d.page.visits = append(spared(d.page.visits), v)
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
	if written.HostName(name) {
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
	if !proves(code, labelMachine, x, r.Seed, r.Proof) {
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

// spared makes room for one more visit: refused ones go first, then those that have no answer.
// What has one stays, however many come after it: it is the only way to the credential.
func spared(visits []*visit) []*visit {
	for _, goes := range []func(*visit) bool{func(v *visit) bool { return !v.stands() }, func(v *visit) bool { return !v.answered() }} {
		if len(visits) < maxVisits {
			break
		}
		if i := slices.IndexFunc(visits, goes); i >= 0 {
			visits = slices.Delete(visits, i, i+1)
		}
	}
	return visits
}

// answered says whether the visit's gateway is made.
func (v *visit) answered() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.over && v.refusal == nil
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

// keep says that the claimant holds the answer.
func (d *Door) keep(ctx context.Context, v *visit) error {
	proof, err := prove(v.code, labelKept, v.exchange, nil)
	if err != nil {
		return err
	}
	_, err = d.ask(ctx, call{Kind: callKept, Exchange: &v.exchange, Proof: proof}, nil)
	return err
}
