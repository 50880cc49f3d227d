package volume

// Environment variables of the driver's services, as the existing driver names
// them.
const (
	envUnsafeAnnotations = "JUICEFS_ALLOW_UNSAFE_PVC_MOUNT_POD_ANNOTATIONS"
	envNodeSelector      = "ENABLE_NODE_SELECTOR"
	envNoUpdateConfig    = "JFS_NO_UPDATE_CONFIG"
)

// WithEnvironment is a copy with what environment variables of a service say;
// get returns the value of one, empty when it is not set.
func (d Defaults) WithEnvironment(get func(string) string) Defaults {
	d.AllowUnsafeClaimAnnotations = get(envUnsafeAnnotations) == "true"
	d.NodeSelector = get(envNodeSelector) == "1"
	d.NoUpdateConfig = get(envNoUpdateConfig) == "enabled"
	return d
}
