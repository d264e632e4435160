package console

import (
	"context"
	"net/http"
	"strconv"

	"lazaret/internal/console/api"
)

// setPassphrase and seal note what is done, never with what.
func (s *Server) setPassphrase(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.MachinePassphrase
	if err := read(r, &q); err != nil {
		return err
	}
	return s.do(w, r, who, "machine.passphrase", func(m Machine) func(context.Context) error {
		return func(ctx context.Context) error { return m.SetPassphrase(ctx, q.Passphrase) }
	})
}

func (s *Server) seal(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.MachineSeal
	if err := read(r, &q); err != nil {
		return err
	}
	detail := map[string]string{"pin": strconv.FormatBool(q.PIN != "")}
	return s.recovery(w, r, who, "machine.seal", detail, func(m Machine) (string, error) {
		return m.Seal(r.Context(), q.PIN)
	})
}

func (s *Server) newRecovery(w http.ResponseWriter, r *http.Request, who identity) error {
	return s.recovery(w, r, who, "machine.recovery", nil, func(m Machine) (string, error) { return m.NewRecovery(r.Context()) })
}

// recovery has the machine do what may make a recovery passphrase, and tells it.
func (s *Server) recovery(w http.ResponseWriter, r *http.Request, who identity, action string, detail map[string]string, do func(Machine) (string, error)) error {
	m, err := s.machine()
	if err != nil {
		return err
	}
	if err := m.Note(r.Context(), who.actor, action, detail); err != nil {
		return err
	}
	text, err := do(m)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, api.MachineRecovery{Recovery: text})
	return nil
}

func (s *Server) acceptTime(w http.ResponseWriter, r *http.Request, who identity) error {
	return s.do(w, r, who, "machine.clock.accept", func(m Machine) func(context.Context) error { return m.AcceptTime })
}

func (s *Server) selfCheck(w http.ResponseWriter, r *http.Request, _ identity) error {
	m, err := s.machine()
	if err != nil {
		return err
	}
	report, err := m.SelfCheck(r.Context())
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, api.MachineReport{Report: report})
	return nil
}

func (s *Server) machineInventory(w http.ResponseWriter, r *http.Request, _ identity) error {
	m, err := s.machine()
	if err != nil {
		return err
	}
	bom, err := m.Inventory(r.Context())
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, bom)
	return nil
}
