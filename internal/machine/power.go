package machine

import (
	"context"

	"lazaret/appliance/boot"
	"lazaret/appliance/button"
)

// heedButton ends the machine when its power button is pressed.
func (m *Machine) heedButton(ctx context.Context) error {
	return button.Run(ctx, button.Config{Log: m.log, Changed: m.loader.Changed()}, func() {
		m.finish(boot.PowerOff, "the power button was pressed")
	})
}
