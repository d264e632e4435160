// Package strict has command lines fail that name no command. A command of cobra that only
// holds others shows its help for whatever it does not hold, and succeeds: a script would go on.
package strict

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Groups returns c with every command below it that only holds others refusing what it does not
// hold. Without an argument such a command shows its help, as before.
func Groups(c *cobra.Command) *cobra.Command {
	for _, sub := range c.Commands() {
		Groups(sub)
	}
	if c.HasParent() && c.HasSubCommands() && !c.Runnable() {
		c.DisableFlagsInUseLine = true
		c.Args = unknown
		c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	return c
}

// unknown refuses arguments, with the names that are near, or with all.
func unknown(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("unknown command %q for %q; did you mean %s?", args[0], cmd.CommandPath(), strings.Join(near, " or "))
	}
	var all []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			all = append(all, sub.Name())
		}
	}
	return fmt.Errorf("unknown command %q for %q; it has %s", args[0], cmd.CommandPath(), strings.Join(all, ", "))
}
