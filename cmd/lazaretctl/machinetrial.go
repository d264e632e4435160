package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lazaret/appliance"
	"lazaret/internal/console/api"
)

// errTakenBack says that a network did not stand its trial.
var errTakenBack = errors.New("the network was taken back: the machine was not reached under the new network, and the one before is back")

// tryNetwork has the machine connected otherwise, and succeeds if the machine is reached while
// it tries that.
func (s *session) tryNetwork(cmd *cobra.Command, n appliance.Network, trial time.Duration) error {
	begin := time.Now()
	_, raw, err := ask[api.MachineTrying](cmd.Context(), s, http.MethodPut, machinePath+"/network", api.MachineTrial{Network: n, Seconds: int(trial / time.Second)})
	if err != nil && !mayHaveArrived(err) {
		return err
	}
	lost := err
	got, err := s.reachAgain(cmd, begin.Add(trial))
	switch {
	case err != nil:
		return fmt.Errorf("the machine was not reached again: %w", errors.Join(err, lost))
	case got.Trying == nil && lost != nil && time.Since(begin) < trial:
		return fmt.Errorf("the machine did not answer, and tries no network: %w; try again", lost)
	case got.Trying == nil:
		return errTakenBack
	}
	if raw == nil {
		if raw, err = json.Marshal(api.MachineTrying{Until: got.Until}); err != nil {
			return err
		}
	}
	return s.show(cmd, raw, func(w io.Writer) {
		fmt.Fprintf(w, "on trial; the one before comes back %s, unless you say: lazaretctl machine network confirm\n", remaining(time.Until(begin.Add(trial))))
	})
}

// mayHaveArrived reports whether a request may have been carried out, though no answer came.
func mayHaveArrived(err error) bool {
	if _, ok := errors.AsType[*url.Error](err); !ok {
		return false // it was answered, or never made
	}
	op, ok := errors.AsType[*net.OpError](err)
	return !ok || op.Op != "dial"
}

// comeBack is how long a machine may take to be reached once its network of before is back.
const comeBack = 2 * time.Minute

// reachAgain asks the machine how it is connected until it answers.
func (s *session) reachAgain(cmd *cobra.Command, end time.Time) (api.MachineNetwork, error) {
	ctx, stop := context.WithDeadline(cmd.Context(), end.Add(comeBack))
	defer stop()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for told := false; ; told = true {
		one, over := context.WithTimeout(ctx, 10*time.Second)
		n, _, err := ask[api.MachineNetwork](one, s, http.MethodGet, machinePath+"/network", nil)
		over()
		if _, unanswered := errors.AsType[*url.Error](err); !unanswered {
			return n, err
		}
		if !told {
			fmt.Fprintf(cmd.ErrOrStderr(), "the machine does not answer; the network from before comes back %s\n", remaining(time.Until(end)))
		}
		select {
		case <-ctx.Done():
			return n, err
		case <-tick.C:
		}
	}
}

// remaining says when something is to come, to the second and never too early.
func remaining(d time.Duration) string {
	if d <= 0 {
		return "at any moment"
	}
	text := ((d + time.Second - 1) / time.Second * time.Second).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	return "in " + text
}
