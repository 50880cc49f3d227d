package app

import (
	"cmp"
	"fmt"
	"strconv"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/juicefs-csi/driver/libs/volume"
)

// Defaults of the environment variables; the existing driver has the same.
const (
	defaultQPS            = 20
	defaultBurst          = 30
	defaultKubeletPort    = "10250"
	defaultKubeletTimeout = 10 * time.Second
)

// environment is what environment variables say. Their names are those of the
// existing driver.
type environment struct {
	shareMode volume.ShareMode
	// qps and burst limit requests to the API server.
	qps   float32
	burst int

	// hostIP is empty where nothing says where kubelet is.
	hostIP      string
	kubeletPort string
	// kubeletCert and kubeletKey are files; both empty for the token of the
	// service account.
	kubeletCert, kubeletKey string
	kubeletTimeout          time.Duration
}

// readEnvironment reports every fault at once, each naming its variable.
func readEnvironment(get func(string) string) (environment, error) {
	vars := variables{get: get}
	read := environment{
		shareMode:      vars.shareMode(),
		qps:            float32(vars.number("KUBE_QPS", defaultQPS)),
		burst:          vars.number("KUBE_BURST", defaultBurst),
		hostIP:         get("HOST_IP"),
		kubeletPort:    cmp.Or(get("KUBELET_PORT"), defaultKubeletPort),
		kubeletCert:    get("KUBELET_CLIENT_CERT"),
		kubeletKey:     get("KUBELET_CLIENT_KEY"),
		kubeletTimeout: vars.seconds("KUBELET_TIMEOUT", defaultKubeletTimeout),
	}
	vars.boolean("ENABLE_APISERVER_LIST_CACHE") // Watches begin with such a list anyway.
	if port, err := strconv.ParseUint(read.kubeletPort, 10, 16); err != nil || port == 0 {
		vars.fault("KUBELET_PORT", read.kubeletPort, "a port from 1 to 65535")
	}
	if (read.kubeletCert == "") != (read.kubeletKey == "") {
		vars.faults = multierror.Append(vars.faults,
			fmt.Errorf("environment variables KUBELET_CLIENT_CERT and KUBELET_CLIENT_KEY: set both or none"))
	}
	return read, vars.faults.ErrorOrNil()
}

type variables struct {
	get    func(string) string
	faults *multierror.Error
}

func (v *variables) fault(name, text, want string) {
	v.faults = multierror.Append(v.faults, fmt.Errorf("environment variable %s: %q is not %s", name, text, want))
}

func (v *variables) boolean(name string) bool {
	text := v.get(name)
	if text == "" {
		return false
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		v.fault(name, text, "true or false")
	}
	return value
}

// number is a whole number, so that one name has the same rule everywhere.
func (v *variables) number(name string, fallback int) int {
	text := v.get(name)
	if text == "" {
		return fallback
	}
	value, err := strconv.ParseInt(text, 10, 32)
	if err != nil || value < 1 {
		v.fault(name, text, "a whole number of at least 1")
	}
	return int(value)
}

// seconds takes a number of seconds, as the existing driver does, or 10s.
func (v *variables) seconds(name string, fallback time.Duration) time.Duration {
	text := v.get(name)
	if text == "" {
		return fallback
	}
	value, err := time.ParseDuration(text)
	if number, numberErr := strconv.ParseInt(text, 10, 32); numberErr == nil {
		value, err = time.Duration(number)*time.Second, nil
	}
	if err != nil || value <= 0 {
		v.fault(name, text, "a number of seconds or a duration such as 10s, above 0")
	}
	return value
}

// shareMode is that of the StorageClass when both are set.
func (v *variables) shareMode() volume.ShareMode {
	byClass, byFileSystem := v.boolean("STORAGE_CLASS_SHARE_MOUNT"), v.boolean("FS_SHARE_MOUNT")
	switch {
	case byClass:
		return volume.ShareByStorageClass
	case byFileSystem:
		return volume.ShareByFileSystem
	}
	return volume.ShareByVolume
}
