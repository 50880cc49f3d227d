package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
)

// The flag of serve and remove.
const (
	defaultTerminationLog = "/dev/termination-log"
	terminationLogUsage   = "`file` for the reason of a failure; written only if it exists"
)

// maxTermination is what kubelet reads of a termination message, in bytes.
const maxTermination = 4096

// Termination is the termination message of a mount pod that failed, in JSON.
type Termination struct {
	// Stage is the name of the stage, or "client".
	Stage string `json:"stage"`
	// Code, Signal, Stderr and Error are those of launch.v1.ExitStatus.
	Code   int32    `json:"code"`
	Signal int32    `json:"signal,omitempty"`
	Stderr []string `json:"stderr,omitempty"`
	Error  string   `json:"error,omitempty"`
}

// writeTermination writes the termination message into path if that exists.
func writeTermination(path, stage string, exit *launchv1.ExitStatus) error {
	message := Termination{Stage: stage, Code: exit.GetCode(), Signal: exit.GetSignal(), Stderr: exit.GetStderr(), Error: exit.GetError()}
	data, err := json.Marshal(message)
	for err == nil && len(data) > maxTermination && len(message.Stderr) > 0 {
		message.Stderr = message.Stderr[1:]
		data, err = json.Marshal(message)
	}
	if err != nil {
		return fmt.Errorf("encode termination message: %w", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Close())
}

// exitStatus describes an end in the terms of the contract.
func exitStatus(status unix.WaitStatus, lines []string) *launchv1.ExitStatus {
	exit := &launchv1.ExitStatus{Stderr: lines}
	if status.Signaled() {
		exit.Code, exit.Signal = 128+int32(status.Signal()), int32(status.Signal())
	} else {
		exit.Code = int32(status.ExitStatus())
	}
	return exit
}
