package console

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/machine"
	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// Machine is what the gateway runs on, where that is an appliance, and what records who did
// what to it. Errors wrap appliance.ErrRefused, appliance.ErrBusy or machine.ErrUnknown.
type Machine interface {
	machine.Host
	// Note writes an audit entry.
	Note(ctx context.Context, by quarantine.Actor, action string, detail map[string]string) error
	// Check asks the update channel now.
	Check(ctx context.Context) error
}

// updatePath takes bundles, which are larger than other bodies.
const updatePath = "/api/v1/machine/update"

// uploadPause is how long an upload may pause before it is given up.
const uploadPause = 30 * time.Second

func (s *Server) machineRoutes() []route {
	const ok, none = http.StatusOK, http.StatusNoContent
	return []route{
		{"GET /api/v1/machine", ReadMachine, (*Server).showMachine, "How the machine under the gateway does: versions, links, disk, clock, updates.", nil, api.Machine{}, ok},
		{"GET /api/v1/machine/log", ReadMachine, (*Server).machineLog, "The newest lines of the machine's log, the oldest first; ?n= (1 to 5000, default 200), ?part=, ?contains= and ?since= select.", nil, []api.MachineLine{}, ok},
		{"GET /api/v1/machine/network", ReadMachine, (*Server).showNetwork, "How the machine is connected, and what is tried.", nil, api.MachineNetwork{}, ok},
		{"PUT /api/v1/machine/network", WriteMachine, (*Server).tryNetwork, "Connect the machine otherwise. It is taken back after a while unless it is confirmed.", api.MachineTrial{}, api.MachineTrying{}, ok},
		{"POST /api/v1/machine/network/confirm", WriteMachine, (*Server).confirmNetwork, "Keep the network that is tried.", nil, nil, none},
		{"POST /api/v1/machine/update", WriteMachine, (*Server).uploadUpdate, "Take an update: the body is a bundle, with its length. ?reboot=true starts it at once.", nil, api.MachineStaged{}, ok},
		{"GET /api/v1/machine/updates", ReadMachine, (*Server).showUpdates, "How the machine keeps itself up to date.", nil, api.MachineUpdates{}, ok},
		{"PUT /api/v1/machine/updates", WriteMachine, (*Server).putUpdates, "Change that.", api.MachineUpdates{}, api.MachineUpdates{}, ok},
		{"POST /api/v1/machine/updates/check", WriteMachine, (*Server).checkUpdates, "Ask the update channel now.", nil, api.Machine{}, ok},
		{"POST /api/v1/machine/passphrase", WriteMachine, (*Server).setPassphrase, "Have a passphrase keep the key of the data partition, in place of what does: it is asked for on the screen at every start.", api.MachinePassphrase{}, nil, none},
		{"POST /api/v1/machine/seal", WriteMachine, (*Server).seal, "Seal the key of the data partition to the TPM. The recovery passphrase, if there was none, is told once.", api.MachineSeal{}, api.MachineRecovery{}, ok},
		{"POST /api/v1/machine/recovery", WriteMachine, (*Server).newRecovery, "Make a new recovery passphrase in place of the one before. It is told once.", nil, api.MachineRecovery{}, ok},
		{"POST /api/v1/machine/clock/accept", WriteMachine, (*Server).acceptTime, "Set the clock to what the time servers agree on, however far that is.", nil, nil, none},
		{"GET /api/v1/machine/check", ReadMachine, (*Server).selfCheck, "Prove from the machine's kernel that the gateway is shut as it is configured.", nil, api.MachineReport{}, ok},
		{"GET /api/v1/machine/inventory", ReadMachine, (*Server).machineInventory, "What the machine's program is made of, as CycloneDX.", nil, map[string]any{}, ok},
		{"POST /api/v1/machine/rollback", WriteMachine, (*Server).rollBack, "Start the version before, and this one no more.", nil, nil, none},
		{"POST /api/v1/machine/reboot", WriteMachine, (*Server).reboot, "Restart the machine.", nil, nil, none},
		{"POST /api/v1/machine/poweroff", WriteMachine, (*Server).powerOff, "Turn the machine off.", nil, nil, none},
		{"POST /api/v1/machine/reset", WriteMachine, (*Server).resetMachine, "Erase everything and make the machine nobody's. The gateway's name must be given.", api.MachineReset{}, nil, none},
	}
}

// machine is what the gateway runs on.
func (s *Server) machine() (Machine, error) {
	if s.cfg.Machine == nil {
		return nil, machine.ErrUnknown
	}
	return s.cfg.Machine, nil
}

func (s *Server) showMachine(w http.ResponseWriter, r *http.Request, _ identity) error {
	m, err := s.machine()
	if err != nil {
		return err
	}
	st, err := m.Status(r.Context())
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, api.Machine{Status: st})
	return nil
}

func (s *Server) machineLog(w http.ResponseWriter, r *http.Request, _ identity) error {
	m, err := s.machine()
	if err != nil {
		return err
	}
	q, n := r.URL.Query(), 200
	if text := q.Get("n"); text != "" {
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > machine.MaxLines {
			return bad("ask for 1 to 5000 lines", "n %q is no number of lines", text)
		}
	}
	f := machine.Filter{Part: q.Get("part"), Contains: q.Get("contains")}
	if text := q.Get("since"); text != "" {
		if f.Since, err = time.Parse(time.RFC3339, text); err != nil {
			return bad("write it like 2026-03-01T12:00:00Z", "since %q is no time", text)
		}
	}
	lines, err := m.Log(r.Context(), n, f)
	if err != nil {
		return err
	}
	out := []api.MachineLine{}
	for _, l := range lines {
		out = append(out, api.MachineLine(l))
	}
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) showNetwork(w http.ResponseWriter, r *http.Request, _ identity) error {
	m, err := s.machine()
	if err != nil {
		return err
	}
	n, err := m.Network(r.Context())
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, api.MachineNetwork(n))
	return nil
}

func (s *Server) tryNetwork(w http.ResponseWriter, r *http.Request, who identity) error {
	m, err := s.machine()
	if err != nil {
		return err
	}
	var q api.MachineTrial
	if err := read(r, &q); err != nil {
		return err
	}
	trial := time.Duration(q.Seconds) * time.Second
	if q.Seconds == 0 {
		trial = machine.DefaultTry
	}
	if q.Seconds < 0 || q.Seconds > int(machine.MaxTry/time.Second) || trial < machine.MinTry {
		return bad("try it for 30 to 900 seconds", "%d seconds is no time to try a network", q.Seconds)
	}
	if err := m.Note(r.Context(), who.actor, "machine.network.try", nil); err != nil {
		return err
	}
	until, err := m.TryNetwork(r.Context(), q.Network, trial)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, api.MachineTrying{Until: until})
	return nil
}

// do has the machine do one thing, recorded before it is done: the machine may be gone after.
func (s *Server) do(w http.ResponseWriter, r *http.Request, who identity, action string, what func(Machine) func(context.Context) error) error {
	m, err := s.machine()
	if err != nil {
		return err
	}
	if err := m.Note(r.Context(), who.actor, action, nil); err != nil {
		return err
	}
	if err := what(m)(r.Context()); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) confirmNetwork(w http.ResponseWriter, r *http.Request, who identity) error {
	return s.do(w, r, who, "machine.network.confirm", func(m Machine) func(context.Context) error { return m.ConfirmNetwork })
}

func (s *Server) rollBack(w http.ResponseWriter, r *http.Request, who identity) error {
	return s.do(w, r, who, "machine.rollback", func(m Machine) func(context.Context) error { return m.Rollback })
}

func (s *Server) reboot(w http.ResponseWriter, r *http.Request, who identity) error {
	return s.do(w, r, who, "machine.reboot", func(m Machine) func(context.Context) error { return m.Reboot })
}

func (s *Server) powerOff(w http.ResponseWriter, r *http.Request, who identity) error {
	return s.do(w, r, who, "machine.poweroff", func(m Machine) func(context.Context) error { return m.PowerOff })
}

func (s *Server) resetMachine(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.MachineReset
	if err := read(r, &q); err != nil {
		return err
	}
	return s.do(w, r, who, "machine.reset", func(m Machine) func(context.Context) error {
		return func(ctx context.Context) error { return m.Reset(ctx, q.Name) }
	})
}

// steady is a body that may take its time as long as it moves, until nobody wants it any more.
type steady struct {
	r io.Reader
	c *http.ResponseController

	mu    sync.Mutex
	ended bool
}

// errUnwanted is for who reads on after the upload was answered.
var errUnwanted = errors.New("the upload is over")

// Read implements io.Reader.
func (u *steady) Read(b []byte) (int, error) {
	if err := u.begin(); err != nil {
		return 0, err
	}
	return u.r.Read(b)
}

// begin gives the sender time. A connection without deadlines needs none.
func (u *steady) begin() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended {
		return errUnwanted
	}
	if err := u.c.SetReadDeadline(time.Now().Add(uploadPause)); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// end lets nobody begin to read any more: the machine may have answered before it had all of
// the body. What is read at the moment ends as whoever reads the rest has it.
func (u *steady) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended = true
}

func (s *Server) uploadUpdate(w http.ResponseWriter, r *http.Request, who identity) error {
	m, err := s.machine()
	if err != nil {
		return err
	}
	if r.ContentLength <= 0 {
		return bad("send the bundle with its Content-Length", "the length of the bundle is not known")
	}
	if r.ContentLength > machine.MaxBundle {
		return &http.MaxBytesError{Limit: machine.MaxBundle}
	}
	c := http.NewResponseController(w)
	// The answer follows the last byte; how long the bytes take is for steady to bound.
	if err := c.SetWriteDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	o := machine.Options{Size: r.ContentLength, Reboot: r.URL.Query().Get("reboot") == "true"}
	body := &steady{r: r.Body, c: c}
	got, err := m.StageUpdate(r.Context(), body, o)
	body.end()
	detail := map[string]string{"version": got.Version, "reboot": strconv.FormatBool(o.Reboot)}
	action := "machine.update"
	if err != nil {
		action, detail = "machine.update.refuse", map[string]string{"why": clip(err.Error(), 500)}
	}
	if err := errors.Join(err, m.Note(context.WithoutCancel(r.Context()), who.actor, action, detail)); err != nil {
		return err
	}
	reply(w, http.StatusOK, api.MachineStaged(got))
	return nil
}

func (s *Server) showUpdates(w http.ResponseWriter, r *http.Request, _ identity) error {
	m, err := s.machine()
	if err != nil {
		return err
	}
	u, err := m.UpdateSettings(r.Context())
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, api.MachineUpdates(u.Updates))
	return nil
}

func (s *Server) putUpdates(w http.ResponseWriter, r *http.Request, who identity) error {
	m, err := s.machine()
	if err != nil {
		return err
	}
	var q api.MachineUpdates
	if err := read(r, &q); err != nil {
		return err
	}
	if err := m.Note(r.Context(), who.actor, "machine.updates.set", map[string]string{"channel": q.Channel, "automatic": strconv.FormatBool(q.Automatic), "window": q.Window}); err != nil {
		return err
	}
	if err := m.SetUpdates(r.Context(), appliance.Updates(q)); err != nil {
		return err
	}
	reply(w, http.StatusOK, q)
	return nil
}

func (s *Server) checkUpdates(w http.ResponseWriter, r *http.Request, who identity) error {
	m, err := s.machine()
	if err != nil {
		return err
	}
	if err := m.Check(r.Context()); err != nil {
		return err
	}
	return s.showMachine(w, r, who)
}
