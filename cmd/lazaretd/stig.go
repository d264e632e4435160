package main

import (
	"encoding/json"
	"errors"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"

	"lazaret/internal/config"
	"lazaret/internal/plane"
	"lazaret/internal/stig"
)

func stigCommand(path *string) *cobra.Command {
	var asJSON, bom bool
	c := &cobra.Command{
		Use: "stig", Args: cobra.NoArgs, Short: "Prove from the running kernel that this gateway is shut as configured (needs CAP_NET_ADMIN)",
		Long: `Stig asks the kernel, and not the configuration, what this gateway lets through: tables and
rules, what may reach it and what it may open, settings, what listens, what the program is
made of. It exits with 1 unless every check was made and passed. Run it as root in the
gateway's network namespace, beside the running data plane.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if bom {
				return printBOM(cmd.OutOrStdout())
			}
			c, err := config.Load(*path)
			if err != nil {
				return err
			}
			r := plane.Stig(cmd.Context(), c, 0)
			if asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(r)
			} else {
				r.Print(cmd.OutOrStdout())
			}
			if err == nil {
				err = r.Err()
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&bom, "sbom", false, "print what the program is made of instead, as CycloneDX JSON")
	return c
}

func printBOM(w io.Writer) error {
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("the program was built without module information")
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(stig.NewBOM(b))
}
