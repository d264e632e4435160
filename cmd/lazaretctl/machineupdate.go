package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"lazaret/internal/console/api"
)

func (s *session) machineUpdate() *cobra.Command {
	var later, wait bool
	c := &cobra.Command{
		Use: "update FILE", Short: "Give the machine an update, and have it started",
		Long: `Give the machine an update, a file that ends in .update, and have it started.

The machine checks who signed it, writes it beside the version that runs and restarts. Where
the new version does not come up well, the one before is started again by itself.`,
		Example: "  lazaretctl machine update lazaret-1.4.0-amd64-cloud.update --wait",
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"update"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if later && wait {
				return errors.New("there is nothing to wait for with --no-reboot")
			}
			before, _, err := ask[api.Machine](cmd.Context(), s, http.MethodGet, machinePath, nil)
			if err != nil {
				return err
			}
			got, raw, err := s.upload(cmd.Context(), cmd.ErrOrStderr(), args[0], !later)
			if err != nil {
				return err
			}
			if wait {
				fmt.Fprintf(cmd.ErrOrStderr(), "version %s is written; the machine restarts\n", got.Version)
				return s.showReturn(cmd, before.Status, got.Version)
			}
			return s.show(cmd, raw, func(w io.Writer) {
				when := "the machine restarts with it now"
				if later {
					when = "it is tried at the next start"
				}
				fmt.Fprintf(w, "version %s is written; %s\n", got.Version, when)
				if got.Notes != "" {
					fmt.Fprintln(w, "what is new: "+got.Notes)
				}
			})
		},
	}
	c.Flags().BoolVar(&later, "no-reboot", false, "write it, and leave it for the next start")
	c.Flags().BoolVar(&wait, "wait", false, "wait until the machine is back, and say whether the new version runs")
	return c
}

// uploading tells on a terminal how much of a body is gone.
type uploading struct {
	r          io.Reader
	w          io.Writer
	done, size int64
	told       time.Time
}

// Read implements io.Reader.
func (p *uploading) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.done += int64(n)
	if now := time.Now(); p.w != nil && (now.Sub(p.told) > 200*time.Millisecond || p.done == p.size) {
		p.told = now
		fmt.Fprintf(p.w, "\r%3d %% of %s", p.done*100/max(p.size, 1), bytesText(p.size))
		if p.done == p.size {
			fmt.Fprintln(p.w, ", the machine verifies and writes it")
		}
	}
	return n, err
}

// upload sends a bundle.
func (s *session) upload(ctx context.Context, w io.Writer, file string, reboot bool) (out api.MachineStaged, raw []byte, err error) {
	f, err := os.Open(filepath.Clean(file))
	if err != nil {
		return out, nil, fmt.Errorf("reading the update: %w", err)
	}
	defer f.Close()
	at, err := f.Stat()
	if err != nil {
		return out, nil, err
	}
	c, err := s.open()
	if err != nil {
		return out, nil, err
	}
	c.http.Timeout = 0 // as long as it moves; the gateway ends what does not
	body := &uploading{r: f, size: at.Size()}
	if t, ok := w.(*os.File); ok && term.IsTerminal(int(t.Fd())) {
		body.w = w
	}
	path := machinePath + "/update"
	if reboot {
		path += "?reboot=true"
	}
	raw, err = c.send(ctx, path, body, at.Size())
	if err != nil {
		return out, nil, err
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return out, raw, fmt.Errorf("reading the gateway's answer: %w", err)
	}
	return out, raw, nil
}

// send posts a body of a known size that is no JSON.
func (c *caller) send(ctx context.Context, path string, body io.Reader, size int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", "application/octet-stream")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the gateway: %w", unwrapURL(err))
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("reading the gateway's answer: %w", err)
	}
	if resp.StatusCode >= 300 {
		return nil, problem(resp.StatusCode, out)
	}
	return out, nil
}

func (s *session) machineUpdates() *cobra.Command {
	c := &cobra.Command{Use: "updates", Short: "How the machine keeps itself up to date"}
	show := &cobra.Command{Use: "show", Short: "Show the channel and the window", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, raw, err := ask[api.MachineUpdates](cmd.Context(), s, http.MethodGet, machinePath+"/updates", nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showUpdates(w, u) })
		}}
	check := &cobra.Command{Use: "check", Short: "Ask the channel now", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, raw, err := ask[api.Machine](cmd.Context(), s, http.MethodPost, machinePath+"/updates/check", nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) {
				if m.Update.Available == "" {
					fmt.Fprintf(w, "version %s is the newest of the channel\n", m.Version)
					return
				}
				fmt.Fprintf(w, "version %s is there; version %s runs\n", m.Update.Available, m.Version)
			})
		}}
	c.AddCommand(show, check, s.updatesSet())
	return c
}

func showUpdates(w io.Writer, u api.MachineUpdates) {
	if u.Channel == "" {
		fmt.Fprintln(w, "no channel: the machine is updated by upload alone")
		return
	}
	window := u.Window
	if window == "" {
		window = "02:00-05:00"
	}
	how := "tells of newer versions, and waits for a person"
	if u.Automatic {
		how = "installs newer versions by itself, " + window + " UTC"
	}
	fmt.Fprintf(w, "channel %s: the machine %s\n", u.Channel, how)
}

func (s *session) updatesSet() *cobra.Command {
	var want api.MachineUpdates
	c := &cobra.Command{Use: "set", Short: "Change the channel, the window, and whether it installs by itself", Args: cobra.NoArgs,
		Long: `Change the channel, the window, and whether the machine installs newer versions by itself.
What no flag names stays as it is. The host firewall lets out what firewall.out names: the
channel's server must be there, or be reached through the proxy.`,
		Example: "  lazaretctl machine updates set --channel https://updates.example/stable --automatic --window \"Sun 02:00-05:00\"",
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, _, err := ask[api.MachineUpdates](cmd.Context(), s, http.MethodGet, machinePath+"/updates", nil)
			if err != nil {
				return err
			}
			f := cmd.Flags()
			if f.Changed("channel") {
				u.Channel = want.Channel
			}
			if f.Changed("automatic") {
				u.Automatic = want.Automatic
			}
			if f.Changed("window") {
				u.Window = want.Window
			}
			u, raw, err := ask[api.MachineUpdates](cmd.Context(), s, http.MethodPut, machinePath+"/updates", u)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showUpdates(w, u) })
		}}
	f := c.Flags()
	f.StringVar(&want.Channel, "channel", "", "https URL of the channel's directory; empty: by upload alone")
	f.BoolVar(&want.Automatic, "automatic", false, "install in the window; --automatic=false: tell, and wait for a person")
	f.StringVar(&want.Window, "window", "", "like \"Sun 02:00-05:00\", in UTC; days may be listed or left out")
	return c
}
