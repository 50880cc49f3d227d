//go:build !kernel

package launch_test

// kernelProgram runs programs that only tests with a kernel need.
func kernelProgram([]string) (code int, known bool) { return 0, false }
