// Package sanity runs csi-sanity, the conformance suite of CSI: over the real
// controller and node binaries with the fake mount manager of
// libs/mountmgrtest, or over a driver that is installed on a cluster.
package sanity

import (
	"encoding/json"
	"fmt"
)

// variable holds an Installed as JSON.
const variable = "JUICEFS_SANITY_DRIVER"

// Installed is a driver that runs already. The test of this package must run
// where its sockets and the directories of the node are.
type Installed struct {
	// Node and Controller are the endpoints of the plugins, unix:///path.
	Node, Controller string
	// TargetDir is where volumes are published: a directory below that of
	// kubelet, made and removed by the test.
	TargetDir string
	// Secret is the content of the Secret of the file system that volumes are
	// made in.
	Secret map[string]string
	// Parameters are those of a StorageClass.
	Parameters map[string]string
}

// Variable is the environment variable, NAME=value, that makes the test of this
// package use the driver. It holds the Secret.
func (i Installed) Variable() (string, error) {
	value, err := json.Marshal(i)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", variable, err)
	}
	return variable + "=" + string(value), nil
}

// InstalledFrom is the driver that the environment names; without Node when it
// names none.
func InstalledFrom(getenv func(string) string) (Installed, error) {
	var installed Installed
	value := getenv(variable)
	if value == "" {
		return installed, nil
	}
	if err := json.Unmarshal([]byte(value), &installed); err != nil {
		return Installed{}, fmt.Errorf("read %s: %w", variable, err)
	}
	return installed, nil
}
