// Package installation is what flags and the ConfigMap say about all volumes.
package installation

import (
	"errors"
	"fmt"
	"os"

	"github.com/juicefs-csi/driver/libs/volume"
)

// Installation is one installation of the driver.
type Installation struct {
	// DriverName is the name of the CSI driver.
	DriverName string
	// ConfigFile is config.yaml of the driver's ConfigMap. It is read for each
	// volume, so that changes apply at once. Without it, or with an empty
	// name, every setting has its default.
	ConfigFile string
	// Defaults are those of the mount managers.
	Defaults volume.Defaults
}

// Inputs are the inputs of volume.Resolve that all volumes have in common. It
// fails with errdefs.ErrInvalidArgument when the ConfigMap is wrong.
func (i Installation) Inputs() (volume.Inputs, error) {
	inputs := volume.Inputs{Defaults: i.Defaults}
	if i.ConfigFile == "" {
		return inputs, nil
	}
	text, err := os.ReadFile(i.ConfigFile)
	if errors.Is(err, os.ErrNotExist) {
		return inputs, nil
	}
	if err != nil {
		return volume.Inputs{}, fmt.Errorf("read the driver's ConfigMap: %w", err)
	}
	inputs.Config, err = volume.ParseConfig(text)
	return inputs, err
}
