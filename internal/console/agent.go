package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"crypto/sha256"
	"crypto/subtle"

	"lazaret/internal/agentapi"
	"lazaret/quarantine"
)

// errNotYours answers a device that is not who or where it should be. The cause stays in the log.
var errNotYours = errors.New("this certificate does not belong to a device at this address")

// Agent is the agent API. It is served on the gateway's tunnel addresses alone, with TLS
// that demands a client certificate.
func (s *Server) Agent() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+agentapi.StatusPath, s.device(s.agentStatus))
	mux.Handle("POST "+agentapi.ReportPath, s.device(s.agentReport))
	mux.Handle("POST "+agentapi.SessionPath, s.device(s.agentSession))
	mux.Handle("POST "+agentapi.AttestPath, s.device(s.agentAttest))
	if s.cfg.Manage != nil {
		mux.Handle("POST "+agentapi.HelloPath, s.device(s.agentHello))
		mux.Handle("POST "+agentapi.ExchangePath, s.device(s.agentExchange))
	}
	return mux
}

// device lets a request through only when certificate, record and tunnel address belong
// to one another: the certificate names the key, the key the seat, the seat the address,
// and WireGuard has shown that the sender holds the key that goes with the address.
func (s *Server) device(next func(http.ResponseWriter, *http.Request, quarantine.Record) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer s.recoverPanic(w, r)
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		w.Header().Set("Cache-Control", "no-store")
		d, err := s.identifyDevice(r)
		if err != nil {
			s.cfg.Log.Warn("agent refused", "from", r.RemoteAddr, "err", err)
			reply(w, http.StatusForbidden, agentapi.Problem{Error: errNotYours.Error()})
			return
		}
		if r.Method != http.MethodGet {
			pace := s.pace
			if strings.HasPrefix(r.URL.Path, managePrefix) {
				pace = s.managePace
			}
			done, err := pace.enter(d.ID)
			if err != nil {
				s.fail(w, r, err)
				return
			}
			defer done()
		}
		s.seen(r, d)
		if err := next(w, r, d); err != nil {
			s.fail(w, r, err)
		}
	})
}

// seen notes what a call from a device's own seat with its own certificate shows: that
// the certificate arrived, and that the device holds its WireGuard key.
func (s *Server) seen(r *http.Request, d quarantine.Record) {
	by := deviceActor(d, r)
	for kind, known := range map[quarantine.Kind]bool{quarantine.Prove: d.Proven, quarantine.Confirm: d.Confirmed, quarantine.Contact: quarantine.Recent(d.Seen, s.cfg.Now())} {
		if known {
			continue
		}
		c := quarantine.Change{Kind: kind, Device: d.ID, By: by, At: s.cfg.Now(), Key: d.Key}
		if _, err := s.cfg.Gate.Change(r.Context(), by, c); err != nil && !errors.Is(err, quarantine.ErrNotEnforced) {
			s.cfg.Log.Error("noting that the device was seen", "device", d.ID, "change", kind, "err", err)
		}
	}
}

func (s *Server) identifyDevice(r *http.Request) (quarantine.Record, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return quarantine.Record{}, errors.New("no client certificate")
	}
	leaf := r.TLS.PeerCertificates[0]
	if err := s.cfg.Device(leaf, s.cfg.Now()); err != nil {
		return quarantine.Record{}, err
	}
	e, err := s.cfg.Gate.Explain(leaf.Subject.CommonName)
	if err != nil {
		return quarantine.Record{}, err
	}
	d := e.Record
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	if subtle.ConstantTimeCompare(sum[:], d.Certificate.SPKI[:]) != 1 {
		return quarantine.Record{}, fmt.Errorf("device %s: not its present certificate", d.ID)
	}
	if d.Stage != quarantine.Quarantined && d.Stage != quarantine.Routed {
		return quarantine.Record{}, fmt.Errorf("device %s is %s", d.ID, d.Stage)
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return quarantine.Record{}, err
	}
	pools, err := s.pools(r.Context())
	if err != nil {
		return quarantine.Record{}, err
	}
	for _, a := range addresses(d, pools) {
		if a == from.Addr().Unmap() {
			return d, nil
		}
	}
	return quarantine.Record{}, fmt.Errorf("device %s: %s is not an address of seat %d", d.ID, from.Addr(), d.Seat)
}

func deviceActor(d quarantine.Record, r *http.Request) quarantine.Actor {
	return quarantine.Actor{Kind: "device", Name: string(d.ID), Address: r.RemoteAddr}
}

func (s *Server) agentStatus(w http.ResponseWriter, r *http.Request, d quarantine.Record) error {
	q := r.URL.Query()
	after, _ := strconv.ParseInt(q.Get("after"), 10, 64) // unreadable is 0: answer at once
	wake, changed := s.waiting(r.Context(), d, after == 0)
	seconds, _ := strconv.Atoi(q.Get("wait"))
	if seconds > 0 && after > 0 && wake == "" {
		ctx, cancel := context.WithTimeout(r.Context(), min(time.Duration(seconds)*time.Second, agentapi.MaxWait))
		defer cancel()
		stop := cancelOn(ctx, changed, cancel)
		waited, err := s.cfg.Gate.Wait(ctx, d.ID, after)
		stop()
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil {
			d = waited
		}
		wake, _ = s.waiting(r.Context(), d, false)
	}
	st, err := s.showStatus(r.Context(), d)
	if err != nil {
		return err
	}
	st.Wake = wake
	if s.cfg.Manage != nil {
		st.Signer = s.cfg.Manage.SignerChain(q.Get("signer"))
	}
	reply(w, http.StatusOK, st)
	return nil
}

func (s *Server) agentReport(w http.ResponseWriter, r *http.Request, d quarantine.Record) error {
	st, err := s.takePosture(r, d)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, st)
	return nil
}

// agentSession is a management session in M8's sense: it succeeds with a release.
func (s *Server) agentSession(w http.ResponseWriter, r *http.Request, d quarantine.Record) error {
	st, err := s.takePosture(r, d)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, agentapi.Session{Released: st.Stage == string(quarantine.Routed), Status: st})
	return nil
}

// takePosture takes an agent's word about its own device, which never releases it.
func (s *Server) takePosture(r *http.Request, d quarantine.Record) (agentapi.Status, error) {
	var q agentapi.Report
	if err := read(r, &q); err != nil {
		return agentapi.Status{}, err
	}
	if err := boundFacts(q.Facts, ""); err != nil {
		return agentapi.Status{}, err
	}
	verdict := quarantine.Verdict(q.Verdict)
	if verdict != quarantine.Compliant && verdict != quarantine.NonCompliant && verdict != "" {
		return agentapi.Status{}, bad("send \"compliant\", \"noncompliant\" or nothing", "verdict is %q", q.Verdict)
	}
	facts, detail := s.attested(r.Context(), d, q)
	now := s.cfg.Now()
	by := deviceActor(d, r)
	if _, ok := facts[quarantine.AttestedFact]; ok { // the gateway's word, which no device may say of itself
		by = quarantine.Actor{Kind: "gateway", Name: s.cfg.Gateway, Address: r.RemoteAddr}
	}
	_, err := s.cfg.Gate.Change(r.Context(), by, quarantine.Change{
		Kind: quarantine.Reported, Device: d.ID, By: by, At: now,
		Report: &quarantine.Report{
			Device: d.ID, Source: quarantine.AgentSource, Verdict: verdict, At: q.At, Sequence: q.Sequence, Received: now, Facts: facts, Detail: detail,
		},
	})
	if err != nil && !errors.Is(err, quarantine.ErrNotEnforced) {
		return agentapi.Status{}, err
	}
	e, err := s.cfg.Gate.Explain(string(d.ID))
	if err != nil {
		return agentapi.Status{}, err
	}
	return s.showStatus(r.Context(), e.Record)
}

func (s *Server) showStatus(ctx context.Context, d quarantine.Record) (agentapi.Status, error) {
	settings, err := s.cfg.Settings(ctx, d)
	if err != nil {
		return agentapi.Status{}, err
	}
	st := agentapi.Status{
		Device: string(d.ID), Name: d.Name, Stage: string(d.Stage), Pool: d.Pool, Since: d.Since, Until: d.Until,
		Reasons: []agentapi.Reason{}, Settings: settings, Revision: d.Revision,
		Listeners: s.cfg.ListenerKeys(), Key: d.Key.String(),
	}
	if !d.Next.IsZero() {
		st.Next = d.Next.String()
	}
	for _, r := range d.Reasons {
		st.Reasons = append(st.Reasons, agentapi.Reason{Rule: r.Rule, Holds: r.Holds, Text: r.Text})
	}
	return st, nil
}
