// Package console is the administration API (/api/v1) and the agent API (/agent/v1):
// JSON over HTTPS. It asks the gate, the desk and the store, and decides nothing but
// who may ask.
package console

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"lazaret/enroll"
	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
	"lazaret/internal/audit"
	"lazaret/internal/console/api"
	"lazaret/internal/signpost"
	"lazaret/quarantine"
)

// Gate places devices; *quarantine.Gate is one.
type Gate interface {
	// Change takes one fact in and returns the placement that follows from it. An
	// error that wraps quarantine.ErrNotEnforced comes with the placement recorded.
	Change(ctx context.Context, by quarantine.Actor, c quarantine.Change) (quarantine.Placement, error)
	// Reports takes many reports and says, in their order, what Change would of each.
	Reports(ctx context.Context, by quarantine.Actor, all []quarantine.Report) []quarantine.Result
	// Explain says where a device is and why, by ID or name.
	Explain(idOrName string) (quarantine.Explanation, error)
	// Devices returns every record, by name. It is for listings; the following are cheap.
	Devices() []quarantine.Record
	// BySerial returns the devices whose one-time password named that serial number.
	BySerial(serial string) []quarantine.Record
	// HighestSeat is the highest seat any device has.
	HighestSeat() quarantine.Seat
	// Counts counts devices by stage.
	Counts() map[quarantine.Stage]int
	// UsesProfile returns a device of the profile that is not revoked, if there is one.
	UsesProfile(name string) (quarantine.Record, bool)
	// Wait returns the record once it is newer than after, or an error when ctx ends.
	Wait(ctx context.Context, id quarantine.ID, after int64) (quarantine.Record, error)
	// Ready is closed once a complete plan is enforced.
	Ready() <-chan struct{}
}

// Desk makes one-time passwords; *enroll.Desk is one.
type Desk interface {
	CreateOTP(ctx context.Context, by quarantine.Actor, r enroll.Request) (code.Code, enroll.OTP, error)
	CancelOTP(ctx context.Context, by quarantine.Actor, reference string) error
	ListOTPs(ctx context.Context) ([]enroll.OTP, error)
}

// Item is a named value and the revision at which it was last written.
type Item[T any] struct {
	Name     string
	Value    T
	Revision int64
}

// Table keeps one kind of named value.
type Table[T any] interface {
	// List returns all, by name.
	List(ctx context.Context) ([]Item[T], error)
	// Put writes it if the stored one still has its revision (0: there is none yet).
	// Errors wrap quarantine.ErrConflict or enroll.ErrExists.
	Put(ctx context.Context, by quarantine.Actor, it Item[T]) (Item[T], error)
	// Delete removes what has the name and, unless it is 0, the revision. Errors wrap
	// ErrNotFound or ErrInUse.
	Delete(ctx context.Context, by quarantine.Actor, name string, revision int64) error
}

// Organization is what administrators decide.
type Organization struct {
	Pools    Table[quarantine.Pool]
	Profiles Table[quarantine.Profile]
	Sources  Table[quarantine.Source]
	Tokens   Table[Token]
	// TokenBySum finds a token by the SHA-256 of its text; errors wrap ErrNotFound.
	TokenBySum func(ctx context.Context, sum [32]byte) (Token, error)
	Uses       TokenUses // optional: when tokens were last used
}

// Refusals records what was refused; the daemon's is the audit log.
type Refusals interface {
	// Refused records that a source was refused a report on a device.
	Refused(ctx context.Context, by quarantine.Actor, device quarantine.ID, why string) error
}

// AuditLog reads the audit log back.
type AuditLog interface {
	// List returns entries, newest first.
	List(ctx context.Context, device string, since time.Time, limit int) ([]audit.Entry, error)
	// Head returns the head to keep elsewhere, for an offline check.
	Head(ctx context.Context) (audit.Head, error)
	// Export writes all segments as one tar archive.
	Export(ctx context.Context, w io.Writer) error
}

var (
	// ErrNotFound reports a named thing that does not exist.
	ErrNotFound = errors.New("not found")
	// ErrNotSet reports what is not there because nobody set it; the error says how to.
	ErrNotSet = errors.New("not set")
	// ErrInvalid reports a value that cannot stand beside the others.
	ErrInvalid = errors.New("not acceptable")
	// ErrPace refuses what was asked for a moment ago.
	ErrPace = errors.New("too soon")
	// ErrInUse reports a named thing that others still refer to.
	ErrInUse = errors.New("still in use")
)

// Config is what a Server needs. Every field is required unless marked.
type Config struct {
	Gateway       string // name
	Version       string
	EnrollURL     string
	Gate          Gate
	Desk          Desk
	Organization  Organization
	Audit         AuditLog
	Root          *x509.Certificate
	Administrator func(leaf *x509.Certificate, now time.Time) error // refuses all but administrators
	Device        func(leaf *x509.Certificate, now time.Time) error // refuses all but devices
	Settings      func(ctx context.Context, r quarantine.Record) (cmp.Settings, error)
	ListenerKeys  func() [][]byte
	Manage        Management                         // optional: commands and management sessions
	Attestation   Attestation                        // optional: judges what devices' TPMs say
	Hooks         Hooks                              // optional: keys of signed webhooks
	Connections   Connections                        // optional: how sources are asked
	Health        func() []api.SourceHealth          // optional: how sources do
	Streams       Streams                            // optional: who is told of device events
	Policies      Policies                           // optional: policy sets and conduct
	Names         func(p quarantine.Pool) []api.Name // optional: what the names in a pool's reach resolve to
	Signals       Signals                            // optional: Shared Signals streams
	Alerts        Alerts                             // optional: what people should know of
	Machine       Machine                            // optional: an appliance
	Certificates  Certificates                       // optional: the server certificate for those who know no root of ours
	Refused       Refusals                           // optional: told of reports that a source may not make
	From          []netip.Prefix                     // optional: networks that may ask the administration API
	Now           func() time.Time
	Log           *slog.Logger

	silence time.Duration // instead of lingerSilence
}

// Server answers both APIs.
type Server struct {
	cfg   Config
	api   func() *http.ServeMux
	cross *http.CrossOriginProtection
	pace  *pace
	// managePace is the pace of management sessions, whose messages are more and cheaper.
	managePace *pace
	attempts   *attempts
	hours      hours
	refusals   refusalBudgets
}

// New checks the configuration and lays out the routes.
func New(cfg Config) (*Server, error) {
	for what, missing := range map[string]bool{
		"gate": cfg.Gate == nil, "desk": cfg.Desk == nil, "tokens": cfg.Organization.TokenBySum == nil,
		"audit log": cfg.Audit == nil, "root certificate": cfg.Root == nil, "administrator check": cfg.Administrator == nil,
		"device check": cfg.Device == nil, "settings": cfg.Settings == nil, "listener keys": cfg.ListenerKeys == nil, "log": cfg.Log == nil,
	} {
		if missing {
			return nil, errors.New("building console: no " + what)
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.silence == 0 {
		cfg.silence = lingerSilence
	}
	s := &Server{cfg: cfg, cross: http.NewCrossOriginProtection(), pace: newPace(cfg.Now, reportBurst), managePace: newPace(cfg.Now, manageBurst), attempts: newAttempts(cfg.Now)}
	s.api = sync.OnceValue(s.mux)
	return s, nil
}

// mux is who answers to which path. It is made with the first request: a start does not wait
// for a hundred patterns to be compared.
func (s *Server) mux() *http.ServeMux {
	mux := http.NewServeMux()
	for _, r := range s.routes() {
		mux.Handle(r.pattern, s.guard(r))
	}
	return mux
}

// API is the administration API. TLS in front of it must ask for client certificates
// without verifying them: they are verified here, against the administrators' CA alone.
func (s *Server) API() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = &intake{ReadCloser: http.MaxBytesReader(w, r.Body, bodyLimit(r)), silence: s.cfg.silence}
		defer s.recoverPanic(w, r)
		if !s.fromAllowed(r) {
			s.fail(w, r, errForbiddenNetwork)
			return
		}
		// A browser that holds an administrator's certificate sends it for every site.
		if s.cross.Check(r) != nil {
			s.fail(w, r, errCrossSite)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if _, pattern := s.api().Handler(r); pattern == "" {
			if r.URL.Path == "/" && signpost.Reads(r) && signpost.Wanted(r) {
				forPeople().ServeHTTP(w, r)
				return
			}
			s.fail(w, r, ErrNotFound)
			return
		}
		s.api().ServeHTTP(w, r)
	})
}

func (s *Server) fromAllowed(r *http.Request) bool {
	if len(s.cfg.From) == 0 {
		return true
	}
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	for _, p := range s.cfg.From {
		if p.Contains(addr.Addr().Unmap()) {
			return true
		}
	}
	return false
}

// recoverPanic answers instead of dropping the connection; the cause goes to the log.
func (s *Server) recoverPanic(w http.ResponseWriter, r *http.Request) {
	if p := recover(); p != nil {
		s.cfg.Log.Error("request failed", "path", r.URL.Path, "panic", p)
		http.Error(w, `{"error":"internal error"}`, http.StatusInternalServerError)
	}
}
