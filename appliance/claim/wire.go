package claim

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// Where the protocol is spoken.
const (
	aboutPath = "/claim/v1/about"
	openPath  = "/claim/v1/open"
	claimPath = "/claim/v1/request"
	keptPath  = "/claim/v1/kept"
)

// opening begins an exchange.
type opening struct {
	Nonce   Sum `json:"nonce"`
	Request Sum `json:"request"` // SHA-256 of the request that will follow
}

// opened is the machine's half.
type opened struct {
	Service string `json:"service"` // what speaks this protocol says so
	Nonce   Sum    `json:"nonce"`
	Proof   Sum    `json:"proof"`
	Seed    []byte `json:"seed,omitempty"` // what a seed said (appliance.Setup); the proof covers it
}

// offered is what everybody may ask for. It is a hint, as everything that no proof covers:
// a request for the other of the two is refused.
type offered struct {
	Service       string `json:"service"`
	Administrator bool   `json:"administrator,omitempty"` // of a gateway that is there; else the whole machine
	Clock         *Clock `json:"clock,omitempty"`         // the machine's; machines of earlier versions do not say
}

const service = "lazaret-claim/1"

// proven is the claimant's half: the request it announced, and the proof.
type proven struct {
	Request []byte `json:"request,omitempty"`
	Proof   Sum    `json:"proof"`
}

// line is one line of the answer to a claim. Empty ones keep the connection alive.
type line struct {
	Progress string   `json:"progress,omitempty"`
	Answer   []byte   `json:"answer,omitempty"`
	MAC      Sum      `json:"mac,omitempty"`
	Refusal  *Refusal `json:"refusal,omitempty"`
}

const (
	maxOpening = 1 << 10
	beat       = 10 * time.Second // between lines of an answer that takes its time
)

// exchangeKey finds a connection's exchange in its context.
type exchangeKey struct{}

// started is the exchange of one connection: the last that was begun there, until somebody
// said something wrong to it.
type started struct {
	mu sync.Mutex
	x  *Exchange
}

// set replaces the exchange; nil: there is none.
func (s *started) set(x *Exchange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.x = x
}

func (s *started) get() *Exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.x
}

// exchangeOf is that of a request's connection.
func exchangeOf(r *http.Request) *started { return r.Context().Value(exchangeKey{}).(*started) }

// receive reads a bounded JSON body strictly.
func receive(w http.ResponseWriter, r *http.Request, most int64, v any) error {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		return err
	}
	return strict(text, v)
}

func refuse(w http.ResponseWriter, err error) {
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok {
		refusal = &Refusal{Kind: Broken, What: "the machine does not answer; its screen says more"}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statusOf[refusal.Kind])
	_ = json.NewEncoder(w).Encode(line{Refusal: refusal}) // whoever hung up asks again
}

var statusOf = map[string]int{
	Wrong: http.StatusForbidden, Invalid: http.StatusBadRequest, Claimed: http.StatusConflict, Busy: http.StatusTooManyRequests, Broken: http.StatusInternalServerError,
}

var errBusy = &Refusal{Kind: Busy, What: "too many tries from your address; try again in some seconds"}

func (d *Door) sayAbout(w http.ResponseWriter, r *http.Request) {
	if !d.permit(r) {
		refuse(w, errBusy)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	c := d.clock(r.Context())
	c.Time = c.Time.UTC().Truncate(time.Second)
	_ = json.NewEncoder(w).Encode(offered{Service: service, Administrator: d.about.Administrator, Clock: &c})
}

func (d *Door) openExchange(w http.ResponseWriter, r *http.Request) {
	if !d.permit(r) {
		refuse(w, errBusy)
		return
	}
	var o opening
	if err := receive(w, r, maxOpening, &o); err != nil {
		refuse(w, &Refusal{Kind: Invalid, What: "this is no opening"})
		return
	}
	name, err := exporter(r.TLS)
	if err != nil {
		refuse(w, &Refusal{Kind: Invalid, What: err.Error()})
		return
	}
	x := Exchange{Exporter: name, Claimant: o.Nonce, Request: o.Request}
	answer, err := d.ask(r.Context(), call{Kind: callOpen, Exchange: &x}, nil)
	if err != nil {
		refuse(w, err)
		return
	}
	x.Machine = answer.Machine
	exchangeOf(r).set(&x)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(opened{Service: service, Nonce: answer.Machine, Proof: answer.Proof, Seed: answer.Seed})
}

// begun returns what the claimant says to the exchange of its connection. Nothing is read
// of whoever has none, or no try left; whoever says what is none begins anew.
func (d *Door) begun(w http.ResponseWriter, r *http.Request, kind string) (call, error) {
	x := exchangeOf(r).get()
	if x == nil {
		w.Header().Set("Connection", "close") // else the server would read on, to no end
		return call{}, &Refusal{Kind: Invalid, What: "no exchange was begun on this connection"}
	}
	if !d.permit(r) {
		w.Header().Set("Connection", "close")
		return call{}, errBusy
	}
	var p proven
	if err := receive(w, r, maxLine, &p); err != nil {
		hangUp(w, r)
		return call{}, &Refusal{Kind: Invalid, What: "this is no request"}
	}
	return call{Kind: kind, Exchange: x, Request: p.Request, Proof: p.Proof}, nil
}

// hangUp ends a connection with this answer, and its exchange in any case.
func hangUp(w http.ResponseWriter, r *http.Request) {
	exchangeOf(r).set(nil)
	w.Header().Set("Connection", "close")
}

// isWrong says that the keeper refused a proof.
func isWrong(err error) bool {
	refusal, ok := errors.AsType[*Refusal](err)
	return ok && refusal.Kind == Wrong
}

func (d *Door) takeClaim(w http.ResponseWriter, r *http.Request) {
	c, err := d.begun(w, r, callClaim)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := newStream(w)
	ctx, stop := context.WithCancel(r.Context())
	done := make(chan struct{})
	go func() { // ends with this request
		defer close(done)
		out.keepAlive(ctx)
	}()
	answer, err := d.ask(ctx, c, func(step string) { out.say(line{Progress: step}) })
	stop()
	<-done
	if isWrong(err) {
		hangUp(w, r)
	}
	if err != nil {
		refusal, ok := errors.AsType[*Refusal](err)
		if !ok {
			refusal = &Refusal{Kind: Broken, What: "the machine does not answer; its screen says more"}
		}
		out.say(line{Refusal: refusal})
		return
	}
	out.say(line{Answer: answer.Answer, MAC: answer.Proof})
}

func (d *Door) takeKept(w http.ResponseWriter, r *http.Request) {
	c, err := d.begun(w, r, callKept)
	if err == nil {
		_, err = d.ask(r.Context(), c, nil)
	}
	if isWrong(err) {
		hangUp(w, r)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, "{}\n")
	d.end()
}

// stream writes lines as they come.
type stream struct {
	mu  sync.Mutex
	w   http.ResponseWriter
	ctl *http.ResponseController
}

// newStream is for an answer that takes longer than the server's timeouts allow: the time
// for reading the request, which is read, must not end it.
func newStream(w http.ResponseWriter) *stream {
	s := &stream{w: w, ctl: http.NewResponseController(w)}
	_ = s.ctl.SetReadDeadline(time.Now().Add(2 * makeTime))
	return s
}

// say writes one line; a claimant that hung up comes again.
func (s *stream) say(l line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.ctl.SetWriteDeadline(time.Now().Add(3 * beat))
	_ = json.NewEncoder(s.w).Encode(l)
	_ = s.ctl.Flush()
}

// keepAlive says nothing now and then, until ctx ends.
func (s *stream) keepAlive(ctx context.Context) {
	t := time.NewTicker(beat)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.say(line{})
		}
	}
}
