package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"lazaret/appliance"
	"lazaret/internal/console/api"
)

func (s *session) machinePassphrase() *cobra.Command {
	file := ""
	c := &cobra.Command{Use: "passphrase", Short: "Set or change the passphrase of the data partition", Args: cobra.NoArgs,
		Long: fmt.Sprintf(`Have a passphrase keep the key of the machine's data partition, in place of what keeps it now
(a key file, the TPM, or the passphrase from before); a recovery passphrase stays. From then
on the machine asks for it on its screen at every start, and is no gateway until somebody
typed it there.

It is typed twice at the terminal, and not shown, or comes from a file. It must have %d
characters at least, that can be typed on a US keyboard, which the machine takes every
keyboard for; nothing else is asked of it, and length is what protects.`, appliance.MinPassphrase),
		RunE: func(cmd *cobra.Command, _ []string) error {
			prompt := &questions{in: cmd.InOrStdin(), out: cmd.ErrOrStderr()}
			text, err := prompt.chosen("passphrase", file, appliance.MinPassphrase)
			if err != nil {
				return err
			}
			_, raw, err := ask[any](cmd.Context(), s, http.MethodPost, machinePath+"/passphrase", api.MachinePassphrase{Passphrase: text})
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) {
				fmt.Fprintln(w, "the passphrase keeps the data now; the machine asks for it on its screen at every start")
			})
		}}
	c.Flags().StringVar(&file, "file", "", "file with the passphrase, - for standard input (default: ask at the terminal)")
	return c
}

func (s *session) machineSeal() *cobra.Command {
	pin, file := false, ""
	c := &cobra.Command{Use: "seal", Short: "Seal the key of the data partition to the TPM", Args: cobra.NoArgs,
		Long: fmt.Sprintf(`Seal the key of the machine's data partition to its TPM as it is started now, so that the
machine opens it by itself, and no other does. What kept the key before goes, but for
passphrases. The recovery passphrase is shown here if there was none: write it down, it is
not shown again.

With --pin the machine asks for a PIN besides at every start, of %d characters at least.`, appliance.MinPIN),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var q api.MachineSeal
			if pin || file != "" {
				var err error
				prompt := &questions{in: cmd.InOrStdin(), out: cmd.ErrOrStderr()}
				if q.PIN, err = prompt.chosen("PIN", file, appliance.MinPIN); err != nil {
					return err
				}
			}
			return s.showRecovery(cmd, "/seal", q, "the TPM keeps the key now; the recovery passphrase from before stays")
		}}
	c.Flags().BoolVar(&pin, "pin", false, "choose a PIN that is asked for at every start")
	c.Flags().StringVar(&file, "pin-file", "", "file with the PIN, - for standard input (default: ask at the terminal)")
	return c
}

func (s *session) machineRecovery() *cobra.Command {
	return &cobra.Command{Use: "recovery", Short: "Make a new recovery passphrase, in place of the one before", Args: cobra.NoArgs,
		Long: `Make a new recovery passphrase of the machine's data partition, in place of the one before. It
opens the data when the TPM does not, or the passphrase is lost. It is shown here, and nowhere
again.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.showRecovery(cmd, "/recovery", nil, "") }}
}

// showRecovery asks for what may answer with a recovery passphrase, and prints it.
func (s *session) showRecovery(cmd *cobra.Command, path string, body any, none string) error {
	got, raw, err := ask[api.MachineRecovery](cmd.Context(), s, http.MethodPost, machinePath+path, body)
	if err != nil {
		return err
	}
	return s.show(cmd, raw, func(w io.Writer) {
		if got.Recovery == "" {
			fmt.Fprintln(w, none)
			return
		}
		fmt.Fprintf(w, "recovery passphrase  %s\nWrite it down: it is not shown again.\n", got.Recovery)
	})
}

// chosen reads something secret and new from a file, or twice at the terminal without showing it.
func (q *questions) chosen(what, file string, least int) (string, error) {
	fd, terminal := q.terminal()
	var text string
	switch {
	case file != "":
		read, err := readBounded(file, q.in)
		if err != nil {
			return "", fmt.Errorf("reading the %s: %w", what, err)
		}
		text = strings.TrimRight(read, "\r\n")
	case terminal:
		var typed [2]string
		for i, prompt := range []string{"new " + what + ": ", "once more: "} {
			fmt.Fprint(q.out, prompt)
			b, err := term.ReadPassword(fd)
			fmt.Fprintln(q.out)
			if err != nil {
				return "", fmt.Errorf("reading the %s: %w", what, err)
			}
			typed[i] = string(b)
		}
		if typed[0] != typed[1] {
			return "", errors.New("the two are not the same; nothing was changed")
		}
		text = typed[0]
	default:
		return "", fmt.Errorf("there is no terminal to ask for the %s at: give it in a file, or - for standard input", what)
	}
	if err := appliance.CheckTyped(what, text, least); err != nil {
		return "", fmt.Errorf("%w; nothing was changed", err)
	}
	return text, nil
}

func (s *session) machineClock() *cobra.Command {
	c := &cobra.Command{Use: "clock", Short: "The machine's clock"}
	c.AddCommand(&cobra.Command{Use: "accept", Short: "Set the clock to what the time servers agree on, however far that is", Args: cobra.NoArgs,
		Long: `Set the machine's clock to what its time servers agree on at this moment, also where that is
further from it than the machine follows by itself. lazaretctl machine status shows what
waits. Look at a clock of your own first: certificates and sign-ins are judged by this one.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, raw, err := ask[any](cmd.Context(), s, http.MethodPost, machinePath+"/clock/accept", nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "the clock is set") })
		}})
	return c
}

func (s *session) machineCheck() *cobra.Command {
	bom := false
	c := &cobra.Command{Use: "check", Short: "Prove from the machine's kernel that the gateway is shut as configured", Args: cobra.NoArgs,
		Long: `Have the machine ask its kernel, and not the configuration, what the gateway lets through:
tables and rules, what may reach it and what it may open, settings, what listens, what the
program is made of. It exits with 1 unless every check was made and passed. This is what
lazaretd stig prints where there is a shell.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if bom {
				got, raw, err := ask[json.RawMessage](cmd.Context(), s, http.MethodGet, machinePath+"/inventory", nil)
				if err != nil {
					return err
				}
				return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, string(got)) })
			}
			r, raw, err := ask[api.MachineReport](cmd.Context(), s, http.MethodGet, machinePath+"/check", nil)
			if err != nil {
				return err
			}
			return errors.Join(s.show(cmd, raw, r.Print), r.Err())
		}}
	c.Flags().BoolVar(&bom, "sbom", false, "print what the program is made of instead, as CycloneDX JSON")
	return c
}
