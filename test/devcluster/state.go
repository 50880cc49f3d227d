package devcluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
)

// state is what the state directory says about its cluster.
type state struct {
	KubernetesVersion string `json:"kubernetesVersion"`
	KubernetesBinary  string `json:"kubernetesBinary"`
	PauseImage        string `json:"pauseImage"`
	Nodes             []Node `json:"nodes"`
	Redis             bool   `json:"redis"`
	// CreatedDirs are directories of the machine that had to be made as mount
	// points; Down removes those that are empty.
	CreatedDirs []string `json:"createdDirs,omitempty"`
	// Complete is set when the cluster has come up.
	Complete bool `json:"complete"`
}

func open(l layout) (*Cluster, error) {
	data, err := os.ReadFile(l.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no cluster in %s: %w", l.dir, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	c := &Cluster{layout: l}
	if err := json.Unmarshal(data, &c.state); err != nil {
		// A crash in the middle of the first write: nothing to keep.
		return nil, fmt.Errorf("unreadable state in %s: %w", l.dir, errdefs.ErrNotFound)
	}
	return c, nil
}

func (c *Cluster) save() error {
	data, err := json.MarshalIndent(c.state, "", "  ")
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	return writeFileAtomic(c.layout.stateFile(), append(data, '\n'), 0o600)
}

// writeFileAtomic leaves either the old or the new content after a crash of
// this program.
func writeFileAtomic(path string, data []byte, mode os.FileMode) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
