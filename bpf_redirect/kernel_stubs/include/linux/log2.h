/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Empty: bcc asks for it and brings its own. */
