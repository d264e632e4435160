package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

const trustPath = "/api/v1/attestation"

// attestation is about TPMs that vouch for devices.
func (s *session) attestation() *cobra.Command {
	c := &cobra.Command{Use: "attestation", Short: "TPMs that vouch for devices, and which of them are believed"}
	c.AddCommand(s.trust(), s.showTPM(), s.acceptPCRs(), s.forgetTPM())
	return c
}

func tpmPath(device string) string {
	return "/api/v1/devices/" + url.PathEscape(device) + "/attestation"
}

func (s *session) trust() *cobra.Command {
	var first, off bool
	var makers []string
	c := &cobra.Command{Use: "trust", Short: "Show which TPMs are believed, or change it", Args: cobra.NoArgs,
		Long: `Show which TPMs are believed, or change it with one of the flags.

--first-use believes whatever TPM a device shows first, also a program that plays one: it
shows that a device stays the same machine, and nothing more. --maker believes TPMs whose
endorsement certificate a maker's CA issued; give the flag for each CA's certificate (PEM).`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, raw, err := ask[api.AttestationTrust](cmd.Context(), s, http.MethodGet, trustPath, nil)
			if err == nil && (first || off || len(makers) > 0) {
				t, err = trusted(first, makers)
				if err == nil {
					t, raw, err = ask[api.AttestationTrust](cmd.Context(), s, http.MethodPut, trustPath, t)
				}
			}
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, sayTrust(t)) })
		}}
	c.Flags().BoolVar(&first, "first-use", false, "believe the first TPM that a device shows")
	c.Flags().StringArrayVar(&makers, "maker", nil, "file with the certificate of a maker's CA")
	c.Flags().BoolVar(&off, "off", false, "believe none")
	c.MarkFlagsMutuallyExclusive("first-use", "maker", "off")
	return c
}

// trusted is the trust that flags ask for; a file may hold several certificates.
func trusted(first bool, makers []string) (api.AttestationTrust, error) {
	t := api.AttestationTrust{FirstUse: first, Makers: []string{}}
	for _, file := range makers {
		text, err := os.ReadFile(filepath.Clean(file))
		if err != nil {
			return t, fmt.Errorf("reading a maker's certificate: %w", err)
		}
		const end = "-----END CERTIFICATE-----"
		before := len(t.Makers)
		for _, one := range strings.SplitAfter(string(text), end) {
			if strings.Contains(one, end) {
				t.Makers = append(t.Makers, strings.TrimSpace(one)+"\n")
			}
		}
		if len(t.Makers) == before {
			return t, errors.New(file + " holds no certificate in PEM")
		}
	}
	return t, nil
}

func sayTrust(t api.AttestationTrust) string {
	switch {
	case len(t.Makers) > 0:
		return fmt.Sprintf("TPMs with a certificate of one of %d makers' CAs are believed", len(t.Makers))
	case t.FirstUse:
		return "the first TPM that a device shows is believed; nobody vouches that it is a real one"
	}
	return "attestation is off: no TPM is believed"
}

func (s *session) showTPM() *cobra.Command {
	return &cobra.Command{Use: "show DEVICE", Short: "What is known of a device's TPM", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete("/api/v1/devices", "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, raw, err := ask[api.Attestation](cmd.Context(), s, http.MethodGet, tpmPath(args[0]), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showAttestation(w, a) })
		}}
}

func showAttestation(w io.Writer, a api.Attestation) {
	fmt.Fprintf(w, "bound     %s\nEK        %s\nAK        %s\nmaker     %s\nresets    %d\n", ago(a.Since), a.EK, a.AK, dash(a.Maker), a.Resets)
	for _, n := range slices.Sorted(maps.Keys(a.Baseline)) {
		fmt.Fprintf(w, "PCR %-5s %s\n", n, a.Baseline[n])
		if seen := a.Seen[n]; seen != "" {
			fmt.Fprintf(w, "  now     %s, since %s\n", seen, ago(a.SeenAt))
		}
	}
}

func (s *session) acceptPCRs() *cobra.Command {
	return &cobra.Command{Use: "accept DEVICE", Short: "Take the PCRs last seen for the right ones, as after an update of its firmware", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete("/api/v1/devices", "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, raw, err := ask[api.Attestation](cmd.Context(), s, http.MethodPost, tpmPath(args[0])+"/accept", nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "accepted; the device's next report is judged by them") })
		}}
}

func (s *session) forgetTPM() *cobra.Command {
	return &cobra.Command{Use: "forget DEVICE", Short: "Forget a device's TPM, so that its next one is bound, as after a new main board", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete("/api/v1/devices", "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, raw, err := ask[any](cmd.Context(), s, http.MethodDelete, tpmPath(args[0]), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "forgotten") })
		}}
}
