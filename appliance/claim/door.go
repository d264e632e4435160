package claim

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// DoorConfig says where a door is.
type DoorConfig struct {
	Listeners []net.Listener // required: TCP, already bounded in number of connections; Run closes them
	Keeper    net.Conn       // required: the pipe to the keeper; Run closes it
	Ready     func()         // optional: called once it answers
	Log       *slog.Logger   // required
}

// Door is what strangers reach of an unclaimed machine. It has no secrets of its own but the
// key of its certificate, and those that pass through it.
type Door struct {
	cfg         DoorConfig
	keeper      *pipe
	certificate tls.Certificate
	fingerprint string
	about       About
	limit       limiter
	tickets     chan struct{} // calls to the keeper under way
	page        page
	heard       heard
	over        chan struct{} // closed when the claim is kept
	end         func()
}

// certificateLife is long: clocks of new machines are wrong, and nobody checks it.
const certificateLife = 10 * 365 * 24 * time.Hour

// NewDoor makes a door with a key and certificate of its own.
func NewDoor(cfg DoorConfig) (*Door, error) {
	if len(cfg.Listeners) == 0 || cfg.Keeper == nil || cfg.Log == nil {
		return nil, errors.New("making a claim's door: listeners, the pipe to the keeper and a log are required")
	}
	cert, err := newCertificate(time.Now())
	if err != nil {
		return nil, err
	}
	d := &Door{
		cfg: cfg, keeper: newPipe(cfg.Keeper), certificate: cert, fingerprint: Fingerprint(cert.Certificate[0]),
		tickets: make(chan struct{}, maxCalls/2), over: make(chan struct{}),
	}
	d.end = sync.OnceFunc(func() { close(d.over) })
	return d, nil
}

// newCertificate makes a self-signed certificate. Nobody vouches for it: what counts is the
// proof over the connection, or its fingerprint on the screen.
func newCertificate(now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making the door's key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making the door's certificate: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "unclaimed Lazaret gateway"}, DNSNames: []string{"unclaimed.lazaret.internal"},
		NotBefore: now.Add(-certificateLife), NotAfter: now.Add(certificateLife), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making the door's certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Fingerprint is the SHA-256 of a certificate (DER) as people compare it: hexadecimal in fours.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	text := strings.ToUpper(hex.EncodeToString(sum[:]))
	var groups []string
	for ; text != ""; text = text[4:] {
		groups = append(groups, text[:4])
	}
	return strings.Join(groups, " ")
}

// Fingerprint is that of the door's certificate.
func (d *Door) Fingerprint() string { return d.fingerprint }

// Run answers until the claim is kept, which is no error, ctx ends or the keeper goes.
func (d *Door) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group.Go(func() error {
		err := d.keeper.run(ctx)
		select {
		case <-d.over:
			return nil
		default:
			cancel()
			return err
		}
	})
	group.Go(func() error {
		r, err := d.keeper.ask(ctx, call{Kind: callServing, Text: d.fingerprint}, nil)
		if err != nil {
			cancel()
			return err
		}
		if r.About != nil {
			d.about = *r.About
		}
		d.page.spawn = func(f func(context.Context)) {
			group.Go(func() error {
				f(ctx)
				return nil
			})
		}
		d.serve(ctx, cancel, group)
		return nil
	})
	err := group.Wait()
	for _, l := range d.cfg.Listeners {
		l.Close()
	}
	select {
	case <-d.over:
		return nil
	default:
		return err
	}
}

// serve starts the listeners' goroutines, and the one that ends them.
func (d *Door) serve(ctx context.Context, cancel func(), group *errgroup.Group) {
	server := &http.Server{
		Handler: d.handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 15 * time.Second, MaxHeaderBytes: 16 << 10,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{d.certificate}, NextProtos: []string{"http/1.1"}, SessionTicketsDisabled: true},
		// One exchange belongs to one connection.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, exchangeKey{}, &started{})
		},
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(d.cfg.Log.Handler(), slog.LevelDebug),
	}
	for _, l := range d.cfg.Listeners {
		group.Go(func() error {
			if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
				cancel()
				return fmt.Errorf("serving on %s: %w", l.Addr(), err)
			}
			return nil
		})
		d.cfg.Log.Info("listening for a claim", "address", l.Addr().String())
	}
	group.Go(func() error {
		select {
		case <-ctx.Done():
		case <-d.over:
		}
		end, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer stop()
		if err := server.Shutdown(end); err != nil {
			server.Close()
		}
		cancel()
		return nil
	})
	if d.cfg.Ready != nil {
		d.cfg.Ready()
	}
}

func (d *Door) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+aboutPath, d.sayAbout)
	mux.HandleFunc("POST "+openPath, d.openExchange)
	mux.HandleFunc("POST "+claimPath, d.takeClaim)
	mux.HandleFunc("POST "+keptPath, d.takeKept)
	d.pages(mux)
	var cross http.CrossOriginProtection
	return headers(cross.Handler(mux))
}

// headers forbids what these pages do not do: scripts, frames, other sites, and being kept.
func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src "+styleHash()+"; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// permit takes one try of the peer's, and says so where there is none.
func (d *Door) permit(r *http.Request) bool {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && d.limit.allow(at.Addr(), time.Now())
}

// ask calls the keeper, when it is this call's turn.
func (d *Door) ask(ctx context.Context, c call, progress func(string)) (reply, error) {
	select {
	case <-ctx.Done():
		return reply{}, ctx.Err()
	case d.tickets <- struct{}{}:
	}
	defer func() { <-d.tickets }()
	return d.keeper.ask(ctx, c, progress)
}
