// SPDX-License-Identifier: MIT
/* /proc/hello greets whomever the parameter names. */
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

static char *name = "world";
module_param(name, charp, 0444);

static int hello_show(struct seq_file *file, void *unused)
{
	seq_printf(file, "hello, %s\n", name);
	return 0;
}

static int __init hello_init(void)
{
	return proc_create_single("hello", 0444, NULL, hello_show) ? 0 : -ENOMEM;
}

static void __exit hello_exit(void)
{
	remove_proc_entry("hello", NULL);
}

module_init(hello_init);
module_exit(hello_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("Greets");
